/* The arithmetic of the page's engine in WebAssembly with 128-bit vectors.
 *
 * A tile is ROWS points; its registers lie column by column, ROWS floats each, so that an operation between columns is
 * one between vectors of points. Registers of one row are plain vectors, padded to a multiple of four. Weights of a
 * linear layer lie in groups of four outputs: [m/4][k][4], padded with zeros.
 *
 * No library is linked. exp, tanh and erf are polynomials of least maximal error, fitted for this file, within 4 units
 * in the last place. Built, with the clang of Debian 12, by
 *
 *   clang --target=wasm32 -O2 -msimd128 -ffp-contract=off -ffreestanding -fno-builtin -nostdlib \
 *         -Wl,--no-entry -Wl,--import-memory -Wl,--strip-all -o kernel.wasm kernel.c
 */

#include <wasm_simd128.h>

#define ROWS 64
#define EXPORT(name) __attribute__((export_name(#name))) name

typedef v128_t f4;

extern unsigned char __heap_base;

static inline f4 load(const float *p) { return wasm_v128_load(p); }
static inline void store(float *p, f4 v) { wasm_v128_store(p, v); }
static inline f4 all(float v) { return wasm_f32x4_splat(v); }
static inline f4 add(f4 a, f4 b) { return wasm_f32x4_add(a, b); }
static inline f4 sub(f4 a, f4 b) { return wasm_f32x4_sub(a, b); }
static inline f4 mul(f4 a, f4 b) { return wasm_f32x4_mul(a, b); }
static inline f4 divide(f4 a, f4 b) { return wasm_f32x4_div(a, b); }
static inline f4 choose(f4 mask, f4 yes, f4 no) { return wasm_v128_bitselect(yes, no, mask); }

int EXPORT(heap_base)(void) { return (int)&__heap_base; }
int EXPORT(tile_rows)(void) { return ROWS; }

/* out = x W^T + b for a tile: four outputs by eight points at once. */
void EXPORT(linear)(float *out, const float *x, const float *w, const float *b, int k, int m) {
  for (int j = 0; j < m; j += 4, w += 4 * k) {
    int n = m - j < 4 ? m - j : 4;
    float bias[4] = {0, 0, 0, 0};
    if (b) for (int o = 0; o < n; o++) bias[o] = b[j + o];
    for (int r = 0; r < ROWS; r += 8) {
      f4 s[4][2];
      for (int o = 0; o < 4; o++) s[o][0] = s[o][1] = all(bias[o]);
      const float *p = x + r, *q = w;
      for (int i = 0; i < k; i++, p += ROWS, q += 4) {
        f4 x0 = load(p), x1 = load(p + 4);
#pragma clang loop unroll(full)
        for (int o = 0; o < 4; o++) {
          f4 v = wasm_v128_load32_splat(q + o);
          s[o][0] = add(s[o][0], mul(v, x0));
          s[o][1] = add(s[o][1], mul(v, x1));
        }
      }
      for (int o = 0; o < n; o++) {
        store(out + (j + o) * ROWS + r, s[o][0]);
        store(out + (j + o) * ROWS + r + 4, s[o][1]);
      }
    }
  }
}

/* The same for a register of one row. */
void EXPORT(linear_row)(float *out, const float *x, const float *w, const float *b, int k, int m) {
  for (int j = 0; j < m; j += 4) {
    f4 s = b ? load(b + j) : all(0);
    for (int i = 0; i < k; i++, w += 4) s = add(s, mul(load(w), all(x[i])));
    store(out + j, s);
  }
}

static inline f4 exponential(f4 x) {
  f4 n = wasm_f32x4_nearest(mul(x, all(1.44269504f)));
  f4 r = sub(sub(x, mul(n, all(0.693359375f))), mul(n, all(-2.12194440e-4f)));
  f4 p = all(1.394216109e-03f);
  p = add(mul(p, r), all(8.363776144e-03f));
  p = add(mul(p, r), all(4.166636345e-02f));
  p = add(mul(p, r), all(1.666657336e-01f));
  p = add(mul(p, r), all(5.000000029e-01f));
  p = add(add(mul(mul(p, r), r), r), all(1));
  f4 power = wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127)), 23);
  f4 value = mul(p, power);
  value = choose(wasm_f32x4_lt(x, all(-87.33f)), all(0), value);
  value = choose(wasm_f32x4_gt(x, all(88.37f)), all(__builtin_inff()), value);
  return choose(wasm_f32x4_ne(x, x), x, value);
}

static inline f4 logistic(f4 x) { return divide(all(1), add(all(1), exponential(wasm_f32x4_neg(x)))); }

static inline f4 hyperbolic(f4 x) {
  f4 z = mul(x, x), p = all(-5.863215963e-03f);
  p = add(mul(p, z), all(2.076358475e-02f));
  p = add(mul(p, z), all(-5.377184622e-02f));
  p = add(mul(p, z), all(1.333172944e-01f));
  p = add(mul(p, z), all(-3.333328509e-01f));
  p = add(mul(mul(p, z), x), x);
  f4 far = sub(all(1), divide(all(2), add(all(1), exponential(add(x, x)))));
  return choose(wasm_f32x4_lt(z, all(0.36f)), p, far);
}

static inline f4 error(f4 x) {
  f4 z = mul(x, x), a = wasm_f32x4_abs(x), p = all(7.889119554e-05f);
  p = add(mul(p, z), all(-8.020841286e-04f));
  p = add(mul(p, z), all(5.189535340e-03f));
  p = add(mul(p, z), all(-2.685444459e-02f));
  p = add(mul(p, z), all(1.128360018e-01f));
  p = add(mul(p, z), all(-3.761262714e-01f));
  p = mul(add(mul(p, z), all(1.128379166e+00f)), x);
  f4 t = divide(all(1), add(all(1), mul(a, all(0.5f)))), q = all(-2.293350216e-01f);
  q = add(mul(q, t), all(6.324168906e-01f));
  q = add(mul(q, t), all(-5.952026495e-02f));
  q = add(mul(q, t), all(3.939492608e-01f));
  q = add(mul(q, t), all(2.605213774e-01f));
  q = add(mul(q, t), all(1.728373582e-03f));
  f4 far = sub(all(1), mul(q, exponential(wasm_f32x4_neg(z))));
  far = choose(wasm_f32x4_gt(a, all(4)), all(1), far);
  far = wasm_v128_or(far, wasm_v128_and(x, wasm_i32x4_splat((int)0x80000000)));
  f4 value = choose(wasm_f32x4_lt(a, all(1)), p, far);
  return choose(wasm_f32x4_ne(x, x), x, value);
}

#define EACH(name, value)                                       \
  void EXPORT(name)(float *out, const float *a, int n) {        \
    for (int i = 0; i < n; i += 4) {                            \
      f4 x = load(a + i);                                       \
      store(out + i, value);                                    \
    }                                                           \
  }

EACH(neg, wasm_f32x4_neg(x))
EACH(abs, wasm_f32x4_abs(x))
EACH(square, mul(x, x))
EACH(sqrt, wasm_f32x4_sqrt(x))
EACH(rsqrt, divide(all(1), wasm_f32x4_sqrt(x)))
EACH(reciprocal, divide(all(1), x))
EACH(relu, wasm_f32x4_max(x, all(0)))
EACH(exp, exponential(x))
EACH(sigmoid, logistic(x))
EACH(silu, divide(x, add(all(1), exponential(wasm_f32x4_neg(x)))))
EACH(tanh, hyperbolic(x))
EACH(erf, error(x))
EACH(gelu, mul(mul(all(0.5f), x), add(all(1), error(mul(x, all(0.707106781f))))))
EACH(gelu_tanh, divide(x, add(all(1), exponential(mul(mul(all(-1.5957691216f), x),
                                                      add(all(1), mul(all(0.044715f), mul(x, x))))))))

/* out = a op b for `columns` columns of n floats; an operand steps by `step` floats a column (0: the same column again)
 * and gives one number for all rows where `wide` is 0. */
#define BETWEEN(name, value)                                                                                         \
  void EXPORT(name)(float *out, const float *p, int p_step, int p_wide, const float *q, int q_step, int q_wide, int n, \
                    int columns) {                                                                                   \
    for (int j = 0; j < columns; j++, out += n, p += p_step, q += q_step)                                            \
      for (int i = 0; i < n; i += 4) {                                                                               \
        f4 a = p_wide ? load(p + i) : all(*p), b = q_wide ? load(q + i) : all(*q);                                   \
        store(out + i, value);                                                                                       \
      }                                                                                                              \
  }

BETWEEN(add_columns, add(a, b))
BETWEEN(sub_columns, sub(a, b))
BETWEEN(mul_columns, mul(a, b))
BETWEEN(div_columns, divide(a, b))
BETWEEN(maximum_columns, wasm_f32x4_max(a, b))
BETWEEN(minimum_columns, wasm_f32x4_min(a, b))

/* Sum over the columns of a tile, times `scale`. */
void EXPORT(sum_columns)(float *out, const float *x, int columns, float scale) {
  for (int r = 0; r < ROWS; r += 4) {
    f4 s = all(0);
    for (int j = 0; j < columns; j++) s = add(s, load(x + j * ROWS + r));
    store(out + r, mul(s, all(scale)));
  }
}

/* Each point of a tile less its mean over the columns, over its standard deviation; then weight and bias of one row. */
void EXPORT(layer_norm)(float *out, const float *x, const float *w, const float *b, int columns, float eps) {
  f4 over = all(1.0f / (float)columns);
  for (int r = 0; r < ROWS; r += 4) {
    f4 s = all(0), v = all(0);
    for (int j = 0; j < columns; j++) s = add(s, load(x + j * ROWS + r));
    f4 mean = mul(s, over);
    for (int j = 0; j < columns; j++) {
      f4 d = sub(load(x + j * ROWS + r), mean);
      v = add(v, mul(d, d));
    }
    f4 scale = divide(all(1), wasm_f32x4_sqrt(add(mul(v, over), all(eps))));
    for (int j = 0; j < columns; j++) {
      f4 y = mul(sub(load(x + j * ROWS + r), mean), scale);
      if (w) y = mul(y, all(w[j]));
      if (b) y = add(y, all(b[j]));
      store(out + j * ROWS + r, y);
    }
  }
}

/* exp of two doubles that are at most 0; less than -700 gives 0. Relative error below 1e-13. */
static inline v128_t exponential2(v128_t x) {
  v128_t n = wasm_f64x2_nearest(wasm_f64x2_mul(x, wasm_f64x2_splat(1.4426950408889634)));
  v128_t r = wasm_f64x2_sub(x, wasm_f64x2_mul(n, wasm_f64x2_splat(0.69314718036912382)));
  r = wasm_f64x2_sub(r, wasm_f64x2_mul(n, wasm_f64x2_splat(1.9082149292705877e-10)));
  v128_t p = wasm_f64x2_splat(1.0 / 39916800);
  static const double factors[] = {1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                                   1.0 / 120,     1.0 / 24,     1.0 / 6,     1.0 / 2,    1,         1};
#pragma clang loop unroll(full)
  for (int i = 0; i < 11; i++) p = wasm_f64x2_add(wasm_f64x2_mul(p, r), wasm_f64x2_splat(factors[i]));
  v128_t power = wasm_i64x2_extend_low_i32x4(wasm_i32x4_trunc_sat_f64x2_zero(n));
  power = wasm_i64x2_shl(wasm_i64x2_add(power, wasm_i64x2_splat(1023)), 52);
  return wasm_v128_bitselect(wasm_f64x2_mul(p, power), wasm_f64x2_splat(0), wasm_f64x2_ge(x, wasm_f64x2_splat(-700)));
}

static inline double both(v128_t v) { return wasm_f64x2_extract_lane(v, 0) + wasm_f64x2_extract_lane(v, 1); }

/* For n points x of `dim` coordinates and `count` Gaussians (even), in arrays of `count` doubles, one a coordinate:
 * centres c, h = -1/(2 variance), and the posterior mean m + g x of each; `bias` is log weight less log norm. Gives the
 * mean over the Gaussians, the greatest (top) of q = bias + sum h (x - c)^2, and the sum (total) of exp(q - top). */
void EXPORT(mixture)(double *mean, double *total, double *top, const double *x, int n, int dim, int count,
                     const double *bias, const double *c, const double *h, const double *m, const double *g,
                     double *joint) {
  for (int i = 0; i < n; i++, x += dim, mean += dim) {
    v128_t best = wasm_f64x2_splat(-__builtin_inf());
    for (int k = 0; k < count; k += 2) {
      v128_t s = wasm_v128_load(bias + k);
      for (int d = 0; d < dim; d++) {
        v128_t u = wasm_f64x2_sub(wasm_f64x2_splat(x[d]), wasm_v128_load(c + d * count + k));
        s = wasm_f64x2_add(s, wasm_f64x2_mul(wasm_f64x2_mul(u, u), wasm_v128_load(h + d * count + k)));
      }
      wasm_v128_store(joint + k, s);
      best = wasm_f64x2_pmax(best, s);
    }
    double a = wasm_f64x2_extract_lane(best, 0), b = wasm_f64x2_extract_lane(best, 1), most = a > b ? a : b;
    v128_t shift = wasm_f64x2_splat(most), sum = wasm_f64x2_splat(0);
    for (int k = 0; k < count; k += 2) {
      v128_t e = exponential2(wasm_f64x2_sub(wasm_v128_load(joint + k), shift));
      wasm_v128_store(joint + k, e);
      sum = wasm_f64x2_add(sum, e);
    }
    top[i] = most;
    total[i] = both(sum);
    for (int d = 0; d < dim; d++) {
      v128_t level = wasm_f64x2_splat(0), slope = wasm_f64x2_splat(0);
      for (int k = 0; k < count; k += 2) {
        v128_t e = wasm_v128_load(joint + k);
        level = wasm_f64x2_add(level, wasm_f64x2_mul(e, wasm_v128_load(m + d * count + k)));
        slope = wasm_f64x2_add(slope, wasm_f64x2_mul(e, wasm_v128_load(g + d * count + k)));
      }
      mean[d] = (both(level) + x[d] * both(slope)) / total[i];
    }
  }
}
