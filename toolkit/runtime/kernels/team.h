/* A team of threads that works through phases of independent tasks. */

#ifndef TEAM_H
#define TEAM_H

#include <stdint.h>

/* Task number `task` of a phase, on thread number `thread`. */
typedef void (*Task)(const void *context, int64_t task, int64_t thread);

typedef struct {
    Task task;
    const void *context;
    int64_t count; /* of tasks */
} Phase;

#define MOST_THREADS 256

/* Run phases one after the other, the tasks of each on up to `threads` threads, the caller's among them.
   A phase ends when its tasks are done, whichever threads did them. A thread that the system does not run
   delays the others only if it is within a task. */
void run_phases(const Phase *phases, int64_t count, int64_t threads);

#endif
