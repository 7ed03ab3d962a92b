/* Moves rows of the cache: an accepted path comes down to the end of the committed rows, and the rows that
   an eviction leaves move together. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The keys or values [heads, room, bytes] of one layer. */
typedef struct {
    char *data;
    int64_t heads, room, bytes;
} Buffer;

/* Make scratch rows path[count], ascending, the first scratch rows of each layer's keys and values; the
   scratch rows of layer l start at first[l]. */
void move_rows(const Buffer *of, int64_t layers, const int64_t *first, const int64_t *path, int64_t count) {
    for (int64_t b = 0; b < 2 * layers; b++)
        for (int64_t h = 0; h < of[b].heads; h++) {
            const int64_t bytes = of[b].bytes;
            char *rows = of[b].data + (h * of[b].room + first[b / 2]) * bytes;
            for (int64_t i = 0; i < count; i++) /* ascending: an overwritten row is not needed any more */
                if (path[i] != i) memcpy(rows + i * bytes, rows + path[i] * bytes, bytes);
        }
}

/* Keep the rows index[i], i < count, of each head of the keys and values of some layers, in order. With
   `by_head`, index[h, count] has a row for each head, layer by layer; else all heads keep the same.
   Returns 1 when there is no memory. */
int keep_rows(const Buffer *of, int64_t layers, const int64_t *index, int64_t count, int64_t by_head) {
    int64_t most = 0;
    for (int64_t b = 0; b < 2 * layers; b++)
        if (of[b].bytes > most) most = of[b].bytes;
    char *kept = malloc(count * most + 1);
    if (!kept) return 1;
    for (int64_t l = 0; l < layers; l++)
        for (int64_t h = 0; h < of[2 * l].heads; h++) {
            for (int64_t b = 2 * l; b < 2 * l + 2; b++) {
                const int64_t bytes = of[b].bytes;
                char *rows = of[b].data + h * of[b].room * bytes;
                for (int64_t i = 0; i < count; i++) memcpy(kept + i * bytes, rows + index[i] * bytes, bytes);
                memcpy(rows, kept, count * bytes);
            }
            if (by_head) index += count;
        }
    free(kept);
    return 0;
}
