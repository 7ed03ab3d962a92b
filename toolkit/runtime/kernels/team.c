/* Threads that share tasks, spin for a bounded time when there are none, and then sleep.

   A phase has a number. Each thread has a share of the phase's tasks and claims them one by one. When its
   own are all claimed, it claims tasks of the others. A claim contains the number of its phase, so a late
   thread cannot claim a task of a phase that is over, and nobody waits for it. */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "team.h"

#define SPIN_NS 50000  /* about what waking a thread takes */
#define LINE 64        /* bytes of a cache line */
#define INDEX_BITS 20  /* of a claim: the number of tasks that are claimed; the rest is the phase's */

typedef struct {
    _Atomic uint64_t claimed; /* phase << INDEX_BITS | tasks of this share that are claimed */
    char apart[LINE - sizeof(uint64_t)];
} Share;

typedef struct {
    _Atomic(Task) task;
    _Atomic(const void *) context;
    _Atomic int64_t count, threads; /* no tasks: nothing to do until the next run */
} Slot;

static struct {
    _Atomic uint64_t now; /* the phase in progress */
    char apart[LINE];
    _Atomic int64_t done; /* tasks of it */
    Slot slots[2];        /* of the phase in progress and the one after, by the number's last bit */
    const Phase *next, *end; /* touched by whoever ends a phase, and by the caller between runs */
    int64_t threads;
    Share shares[MOST_THREADS];
    pthread_mutex_t mutex; /* for those that sleep, and for starting threads */
    pthread_cond_t moved;
    _Atomic int asleep;
    int64_t started; /* threads beside the caller's */
} team = {.mutex = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static pthread_mutex_t running = PTHREAD_MUTEX_INITIALIZER; /* one run at a time */

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Return once `phase` is over: at once, after spinning for SPIN_NS since `since`, or after sleep. */
static void wait_past(uint64_t phase, int64_t since) {
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&team.now, memory_order_acquire) != phase) return;
            pause_briefly();
        }
    } while (nanoseconds() - since < SPIN_NS);
    pthread_mutex_lock(&team.mutex);
    atomic_fetch_add(&team.asleep, 1);
    while (atomic_load(&team.now) == phase) pthread_cond_wait(&team.moved, &team.mutex);
    atomic_fetch_sub(&team.asleep, 1);
    pthread_mutex_unlock(&team.mutex);
}

/* Make the next phase the one in progress. Only one thread can get here at a time: the one that finished
   a phase, or the caller of a run that begins. */
static void advance(uint64_t phase) {
    /* A thread that reads the slot's new values also reads that the phase before is over. */
    atomic_thread_fence(memory_order_release);
    while (team.next < team.end && !team.next->count) team.next++;
    Slot *slot = team.slots + ((phase + 1) & 1);
    const int more = team.next < team.end;
    atomic_store_explicit(&slot->task, more ? team.next->task : 0, memory_order_relaxed);
    atomic_store_explicit(&slot->context, more ? team.next->context : 0, memory_order_relaxed);
    atomic_store_explicit(&slot->count, more ? team.next->count : 0, memory_order_relaxed);
    atomic_store_explicit(&slot->threads, team.threads, memory_order_relaxed);
    team.next += more;
    atomic_store_explicit(&team.done, 0, memory_order_relaxed);
    atomic_store(&team.now, phase + 1);
    if (atomic_load(&team.asleep)) {
        pthread_mutex_lock(&team.mutex);
        pthread_cond_broadcast(&team.moved);
        pthread_mutex_unlock(&team.mutex);
    }
}

/* The next task of a share of `size` in `phase`, or -1 when all are claimed. */
static int64_t claim(Share *share, uint64_t phase, int64_t size) {
    uint64_t found = atomic_load_explicit(&share->claimed, memory_order_relaxed);
    for (;;) {
        const uint64_t of = found >> INDEX_BITS;
        if (of > phase) return -1;
        const int64_t index = of == phase ? (int64_t)(found & ((1 << INDEX_BITS) - 1)) : 0;
        if (index >= size) return -1;
        if (atomic_compare_exchange_weak_explicit(&share->claimed, &found, (phase << INDEX_BITS) + index + 1,
                                                  memory_order_acq_rel, memory_order_relaxed))
            return index;
    }
}

/* Do tasks of `phase` as thread `me`; returns whether there were any. */
static int work(int64_t me, uint64_t phase) {
    const Slot *slot = team.slots + (phase & 1);
    const Task task = atomic_load_explicit(&slot->task, memory_order_relaxed);
    const void *context = atomic_load_explicit(&slot->context, memory_order_relaxed);
    const int64_t count = atomic_load_explicit(&slot->count, memory_order_relaxed);
    const int64_t threads = atomic_load_explicit(&slot->threads, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&team.now, memory_order_relaxed) != phase) return 0; /* too late */
    if (me >= threads) return 0;
    int64_t finished = 0;
    for (int64_t i = 0; i < threads; i++) {
        const int64_t whose = me + i < threads ? me + i : me + i - threads;
        const int64_t first = count * whose / threads, size = count * (whose + 1) / threads - first;
        for (int64_t index; (index = claim(team.shares + whose, phase, size)) >= 0; finished++)
            task(context, first + index, me);
    }
    if (finished && atomic_fetch_add_explicit(&team.done, finished, memory_order_acq_rel) + finished == count)
        advance(phase);
    return finished > 0;
}

static void *serve(void *number) {
    int64_t busy = 0; /* when this thread last did a task */
    for (uint64_t phase = 0;;) {
        wait_past(phase, busy);
        phase = atomic_load_explicit(&team.now, memory_order_acquire);
        if (work((int64_t)(intptr_t)number, phase)) busy = nanoseconds();
    }
    return 0;
}

/* After a fork, the child has only the caller's thread. */
static void forget_threads(void) {
    pthread_mutex_init(&team.mutex, 0);
    pthread_mutex_init(&running, 0);
    pthread_cond_init(&team.moved, 0);
    atomic_store(&team.asleep, 0);
    team.started = 0;
    team.next = team.end;
    advance(atomic_load(&team.now));
}

static void register_fork(void) { pthread_atfork(0, 0, forget_threads); }

/* Start threads until there are `wanted` beside the caller's; returns how many there are. */
static int64_t start_threads(int64_t wanted) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are for the process's own threads */
    while (team.started < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, 0, serve, (void *)(intptr_t)(team.started + 1))) break;
        pthread_detach(thread);
        team.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return team.started;
}

void run_phases(const Phase *phases, int64_t count, int64_t threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    for (int64_t i = 0; i < count; i++)
        if (phases[i].count >> INDEX_BITS) threads = 1;
    if (threads > 1 && pthread_mutex_trylock(&running) == 0) {
        const int64_t here = 1 + start_threads(threads - 1);
        team.threads = threads < here ? threads : here;
        team.next = phases, team.end = phases + count;
        advance(atomic_load(&team.now));
        for (;;) {
            const uint64_t phase = atomic_load_explicit(&team.now, memory_order_acquire);
            const Slot *slot = team.slots + (phase & 1);
            if (!atomic_load_explicit(&slot->count, memory_order_relaxed) &&
                atomic_load(&team.now) == phase)
                break;
            work(0, phase);
            if (atomic_load_explicit(&team.now, memory_order_relaxed) == phase)
                wait_past(phase, nanoseconds());
        }
        pthread_mutex_unlock(&running);
        return;
    }
    /* On this thread alone, also while another run is in progress. */
    for (const Phase *of = phases; of < phases + count; of++)
        for (int64_t task = 0; task < of->count; task++) of->task(of->context, task, 0);
}
