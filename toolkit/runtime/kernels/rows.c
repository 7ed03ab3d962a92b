/* Rows of the cache that a commit keeps: an accepted path comes down to where committed rows end. */

#include <stdint.h>
#include <string.h>

/* Keys or values [heads, room, bytes] of one layer. */
typedef struct {
    char *data;
    int64_t heads, room, bytes;
} Rows;

/* In keys and values of each layer, whose scratch rows start at `first`, scratch rows path[count],
   ascending, become the first ones. */
void move_rows(const Rows *of, int64_t layers, const int64_t *first, const int64_t *path, int64_t count) {
    for (int64_t b = 0; b < 2 * layers; b++)
        for (int64_t h = 0; h < of[b].heads; h++) {
            const int64_t bytes = of[b].bytes;
            char *rows = of[b].data + (h * of[b].room + first[b / 2]) * bytes;
            for (int64_t i = 0; i < count; i++) /* upwards: what is overwritten was moved or dropped */
                if (path[i] != i) memcpy(rows + i * bytes, rows + path[i] * bytes, bytes);
        }
}
