/* Rows of the cache that a commit keeps: an accepted path comes down to where committed rows end. */

#include <stdint.h>
#include <string.h>

/* Rows [heads, room, bytes] of one layer's keys or values, of which scratch rows start at `first`. */
typedef struct {
    char *data;
    int64_t heads, room, bytes, first;
} Rows;

/* Scratch rows path[count], ascending, become the first ones, in `buffers` of them. */
void move_rows(const Rows *of, int64_t buffers, const int64_t *path, int64_t count) {
    for (const Rows *end = of + buffers; of < end; of++)
        for (int64_t h = 0; h < of->heads; h++) {
            char *first = of->data + (h * of->room + of->first) * of->bytes;
            for (int64_t i = 0; i < count; i++) /* upwards: what is overwritten was moved or dropped */
                if (path[i] != i)
                    memcpy(first + i * of->bytes, first + path[i] * of->bytes, of->bytes);
        }
}
