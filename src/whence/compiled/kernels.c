/* The inner loops of an audit, for whatever machine this is compiled on. REAL is float or double.

   Matrices are row-major. Vectors of VL numbers are the compiler's own (GCC, Clang), so nothing here is written for one
   processor. Threads are OpenMP's, which torch has started already. Each part of the work writes to places of its own,
   so results do not depend on how many threads there are. */

#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif
#define VL ((long)(BYTES / sizeof(REAL)))
#define VECTORS 2 /* of columns in a tile */
#define PANEL (VECTORS * VL)
#define TILE 6       /* rows in a tile: with 2 vectors, what 16 registers hold */
#define AT_ONCE 256  /* positions added up by themselves: roundings grow with the longest sum */
#define CHUNK 512    /* columns multiplied at once: a panel of them stays in the first cache */

typedef REAL vector __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* How many examples a panel has, and targets a tile. */
long panel(void) { return PANEL; }
long tile(void) { return TILE; }

/* One coefficient of the optimizer's step: a row for every row of the weight, or the same for all (stride 0). */
typedef struct {
    const REAL *values;
    long stride;
} coefficient;

/* Some rows of the weight: what every target owes to the momentum and to the weights; either may be missing. */
typedef struct {
    REAL *buffers, *weights;
    long rows;
} block;

/* One step of a walk for one weight whose gradients are outer products, of the targets and of the batch. */
typedef struct {
    long targets, positions, rows, columns, examples, blocks, part; /* part: of the targets, walked at once */
    const block *block;
    const REAL *target_rows, *target_columns; /* (targets, positions, rows), (targets, positions, columns) */
    coefficient kappa, sigma, gamma;
    REAL pending, keep, coupled;              /* a factor of the buffers; 1 - decay; decay that is a gradient */
    const REAL *batch_rows, *batch_columns;   /* panels of PANEL examples: (panels, rows | columns, PANEL) */
    REAL *found;                              /* (targets, examples), its rows so far apart: */
    long stride;
} walk_job;

/* found[r, e] += scale[e] * sum over k of u[r, k] batch[k, e], for TILE rows of u and PANEL examples. */
INLINE void multiply(const REAL *u, long apart, long columns, const REAL *batch, const REAL *scale, REAL *found,
                     long stride, long rows, long examples) {
    vector sum[TILE][VECTORS];
    for (long r = 0; r < TILE; r++)
        for (long c = 0; c < VECTORS; c++) sum[r][c] = (vector){0};
    _Pragma("GCC unroll 4") for (long k = 0; k < columns; k++) {
        vector right[VECTORS];
        for (long c = 0; c < VECTORS; c++) right[c] = *(const vector *)(batch + k * PANEL + c * VL);
        _Pragma("GCC unroll 6") for (long r = 0; r < TILE; r++) {
            vector left = u[r * apart + k] - (vector){0};
            for (long c = 0; c < VECTORS; c++) sum[r][c] += left * right[c];
        }
    }
    for (long r = 0; r < rows; r++) {
        if (examples == PANEL) {
            for (long c = 0; c < VECTORS; c++)
                *(vector *)(found + r * stride + c * VL) += *(const vector *)(scale + c * VL) * sum[r][c];
        } else {
            for (long e = 0; e < examples; e++) found[r * stride + e] += scale[e] * sum[r][e / VL][e % VL];
        }
    }
}

/* One target and one row of the weight: the transpose of the optimizer's step. u is the sensitivity to the gradient.

     h = sum of the outer products,  m = p + h,  b = b - sigma m / pending,
     u = kappa pending b - gamma m,  p = keep m + coupled u - h */
INLINE void pull(const walk_job *job, REAL *restrict b, REAL *restrict p, REAL *restrict u, long target, long row) {
    const long columns = job->columns;
    const REAL *restrict kappa = job->kappa.values + row * job->kappa.stride;
    const REAL *restrict sigma = job->sigma.values + row * job->sigma.stride;
    const REAL *restrict gamma = job->gamma.values + row * job->gamma.stride;
    const REAL pending = job->pending, times = 1 / pending, keep = job->keep, coupled = job->coupled;
    memset(u, 0, sizeof(REAL) * columns);
    for (long position = 0; position < job->positions; position++) {
        const long at = target * job->positions + position;
        const REAL first = job->target_rows[at * job->rows + row];
        const REAL *restrict second = job->target_columns + at * columns;
        for (long k = 0; k < columns; k++) u[k] += first * second[k];
    }
    for (long k = 0; k < columns; k++) {
        const REAL h = u[k], m = p ? p[k] + h : h;
        REAL value = -gamma[k] * m;
        if (b) {
            const REAL owed = b[k] - times * sigma[k] * m;
            b[k] = owed;
            value += kappa[k] * pending * owed;
        }
        u[k] = value;
        if (p) p[k] = keep * m + coupled * value - h;
    }
}

/* found += u of some targets and one row of the weight, times that row of the batch's gradients. */
INLINE void multiply_row(const walk_job *job, const REAL *u, long first, long targets, long row) {
    const long columns = job->columns, panels = (job->examples + PANEL - 1) / PANEL;
    for (long begin = 0; begin < columns; begin += CHUNK) {
        const long count = columns - begin < CHUNK ? columns - begin : CHUNK;
        for (long at = 0; at < panels; at++) {
            const REAL *batch = job->batch_columns + (at * columns + begin) * PANEL;
            const REAL *scale = job->batch_rows + (at * job->rows + row) * PANEL;
            const long left = job->examples - at * PANEL, examples = left < PANEL ? left : PANEL;
            for (long t = 0; t < targets; t += TILE)
                multiply(u + t * columns + begin, columns, count, batch, scale,
                         job->found + (first + t) * job->stride + at * PANEL, job->stride,
                         targets - t < TILE ? targets - t : TILE, examples);
        }
    }
}

static void walk_part(const walk_job *job, long first, REAL *u) {
    const long columns = job->columns, targets = job->targets - first < job->part ? job->targets - first : job->part;
    long row = 0;
    for (const block *one = job->block; one < job->block + job->blocks; one++)
        for (long inside = 0; inside < one->rows; inside++, row++) {
            for (long t = 0; t < targets; t++) {
                const long at = ((first + t) * one->rows + inside) * columns;
                REAL *b = one->buffers ? one->buffers + at : 0, *p = one->weights ? one->weights + at : 0;
                if (b && p) pull(job, b, p, u + t * columns, first + t, row);
                else if (b) pull(job, b, 0, u + t * columns, first + t, row);
                else if (p) pull(job, 0, p, u + t * columns, first + t, row);
                else pull(job, 0, 0, u + t * columns, first + t, row);
            }
            multiply_row(job, u, first, targets, row);
        }
}

/* Return 0, or 1 if there is no memory. */
int walk(const walk_job *job) {
    const long parts = (job->targets + job->part - 1) / job->part, rows = (job->part + TILE - 1) / TILE * TILE;
    int failed = 0;
#pragma omp parallel reduction(|| : failed)
    {
        REAL *u = calloc(rows * job->columns, sizeof(REAL)); /* tiles are multiplied whole, and kept of targets only */
        failed = !u;
#pragma omp for schedule(dynamic)
        for (long part = 0; part < parts; part++)
            if (u) walk_part(job, part * job->part, u);
        free(u);
    }
    return failed;
}

/* Per-example gradients of a convolution's weight over two axes; an example's channel groups count as examples. */
typedef struct {
    long examples, rows, channels;
    long height, width;                    /* of the padded input */
    long positions[2], kernel[2], stride[2], dilation[2];
    const REAL *input;                     /* (examples, channels, height, width) */
    const REAL *output_gradients;          /* (examples, rows, positions) */
    REAL *found;                           /* (examples, rows, channels, kernel) */
} convolution_job;

/* sum[c][r] = sum over positions of input[place[c] + position] gradients[position, r], TILE entries of the kernel by
   some vectors of rows, over some lines of positions. */
INLINE void correlate(const convolution_job *job, const REAL *const *place, const REAL *gradients, long vectors,
                      long step, long lines, vector sum[TILE][VECTORS]) {
    const long line = job->stride[0] * job->width;
    for (long c = 0; c < TILE; c++)
        for (long v = 0; v < vectors; v++) sum[c][v] = (vector){0};
    for (long y = 0; y < lines; y++)
        _Pragma("GCC unroll 2") for (long x = 0; x < job->positions[1]; x++, gradients += vectors * VL) {
            vector right[VECTORS];
            for (long v = 0; v < vectors; v++) right[v] = *(const vector *)(gradients + v * VL);
            _Pragma("GCC unroll 6") for (long c = 0; c < TILE; c++) {
                vector left = place[c][y * line + x * step] - (vector){0};
                for (long v = 0; v < vectors; v++) sum[c][v] += left * right[v];
            }
        }
}

static void convolve_part(const convolution_job *job, long example, REAL *gradients) {
    const long positions = job->positions[0] * job->positions[1], taps = job->kernel[0] * job->kernel[1];
    const long across = job->positions[1] ? job->positions[1] : 1, lines = across < AT_ONCE ? AT_ONCE / across : 1;
    const long entries = job->channels * taps, plane = job->height * job->width;
    const REAL *input = job->input + example * job->channels * plane;
    const REAL *outputs = job->output_gradients + example * job->rows * positions;
    REAL *found = job->found + example * job->rows * entries;
    for (long first = 0; first < job->rows; first += PANEL) {
        const long rows = job->rows - first < PANEL ? job->rows - first : PANEL, vectors = rows > VL ? 2 : 1;
        for (long at = 0; at < positions; at++)
            for (long r = 0; r < vectors * VL; r++)
                gradients[at * vectors * VL + r] = r < rows ? outputs[(first + r) * positions + at] : 0;
        for (long entry = 0; entry < entries; entry += TILE) {
            const REAL *place[TILE];
            vector part[TILE][VECTORS], sum[TILE][VECTORS] = {0};
            const long inside = entries - entry < TILE ? entries - entry : TILE;
            for (long c = 0; c < TILE; c++) {
                const long tap = entry + (c < inside ? c : 0);
                const long channel = tap / taps, y = tap % taps / job->kernel[1], x = tap % job->kernel[1];
                place[c] = input + channel * plane + y * job->dilation[0] * job->width + x * job->dilation[1];
            }
            for (long y = 0; y < job->positions[0]; y += lines) {
                const REAL *right = gradients + y * job->positions[1] * vectors * VL;
                const long some = job->positions[0] - y < lines ? job->positions[0] - y : lines;
                if (vectors == 2 && job->stride[1] == 1) correlate(job, place, right, 2, 1, some, part);
                else if (job->stride[1] == 1) correlate(job, place, right, 1, 1, some, part);
                else if (vectors == 2) correlate(job, place, right, 2, job->stride[1], some, part);
                else correlate(job, place, right, 1, job->stride[1], some, part);
                for (long c = 0; c < TILE; c++) {
                    for (long v = 0; v < vectors; v++) sum[c][v] += part[c][v];
                    place[c] += some * job->stride[0] * job->width;
                }
            }
            for (long c = 0; c < inside; c++)
                for (long r = 0; r < rows; r++)
                    found[(first + r) * entries + entry + c] = sum[c][r / VL][r % VL];
        }
    }
}

/* Return 0, or 1 if there is no memory. */
int convolve(const convolution_job *job) {
    int failed = 0;
#pragma omp parallel reduction(|| : failed)
    {
        REAL *gradients = malloc(sizeof(REAL) * PANEL * job->positions[0] * job->positions[1]);
        failed = !gradients;
#pragma omp for schedule(static)
        for (long one = 0; one < job->examples; one++)
            if (gradients) convolve_part(job, one, gradients);
        free(gradients);
    }
    return failed;
}
