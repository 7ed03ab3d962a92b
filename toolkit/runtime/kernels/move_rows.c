/* Moves the rows that a commit keeps: an accepted path comes down to the end of the committed rows. */

#include <stdint.h>
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
