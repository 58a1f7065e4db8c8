// 3x3 convolutions (stride 1, padding 1) by Winograd's F(2x2, 3x3), in float32, with both
// gradients; called from winograd.py through plain C pointers.
//
// A tile of 2x2 outputs takes 16 products a pair of channels where the plain sum takes 36. The
// transforms of inputs and outputs only add, so their rounding is that of the sums themselves.
// Tensors are [images, height, width, channels] in memory, height and width even, channels a
// multiple of 64. Transformed tiles never leave the second cache: a block of tiles is
// transformed, multiplied and transformed back before the next.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

#if defined(__AVX512F__)
const int64_t VECTOR = 64, WIDE = 4;  // bytes; vectors a row: 24 of the 32 registers are sums
#else
const int64_t VECTOR = 32, WIDE = 2;  // 12 of the 16 registers are sums
#endif
typedef float vec __attribute__((vector_size(VECTOR)));
typedef float unaligned __attribute__((vector_size(VECTOR), aligned(4)));

const int64_t LANES = VECTOR / 4, CHUNK = 64;  // numbers a vector, channels a panel
const int64_t COLUMNS = WIDE * LANES;          // of a panel, multiplied at a time
const int64_t ROWS = 6;                        // tiles at a time

inline vec load(const float* from) { return *(const unaligned*)from; }
inline vec load(const uint8_t* from) {
  typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1)));
  return __builtin_convertvector(*(const bytes*)from, vec);
}
inline void store(float* to, vec value) { *(unaligned*)to = value; }

struct Shape {
  int64_t images, height, width;
  int64_t columns() const { return width / 2; }
  int64_t tiles_an_image() const { return (height / 2) * columns(); }
  int64_t tiles() const { return images * tiles_an_image(); }
};

struct Buffer {  // page-aligned scratch memory of one thread
  explicit Buffer(int64_t numbers)
      : data((float*)std::aligned_alloc(4096, (numbers * 4 + 4095) / 4096 * 4096)) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  float* data;
};

alignas(64) const float ZEROS[CHUNK] = {};  // of any type

// 16 tiles-transformed inputs of `count` tiles, `CHUNK` channels from `channel` on: B' d B.
template <class In>
void transform_inputs(const In* x, const Shape& shape, int64_t channels, int64_t channel,
                      int64_t first, int64_t count, float* to, int64_t position) {
  for (int64_t tile = 0; tile < count; tile++, to += CHUNK) {
    const int64_t image = (first + tile) / shape.tiles_an_image();
    const int64_t inside = (first + tile) % shape.tiles_an_image();
    const int64_t top = 2 * (inside / shape.columns()) - 1;
    const int64_t left = 2 * (inside % shape.columns()) - 1;
    const In* from[16];
    for (int64_t i = 0; i < 16; i++) {
      const int64_t row = top + i / 4, column = left + i % 4;
      const bool there = row >= 0 && row < shape.height && column >= 0 && column < shape.width;
      from[i] = there ? x + ((image * shape.height + row) * shape.width + column) * channels +
                            channel
                      : (const In*)ZEROS;
    }
    for (int64_t c = 0; c < CHUNK; c += LANES) {
      vec t[16];
      for (int j = 0; j < 4; j++) {
        const vec d0 = load(from[j] + c), d1 = load(from[4 + j] + c);
        const vec d2 = load(from[8 + j] + c), d3 = load(from[12 + j] + c);
        t[j] = d0 - d2;
        t[4 + j] = d1 + d2;
        t[8 + j] = d2 - d1;
        t[12 + j] = d1 - d3;
      }
      for (int i = 0; i < 4; i++) {
        const vec *d = t + 4 * i;
        float* out = to + c + 4 * i * position;
        store(out, d[0] - d[2]);
        store(out + position, d[1] + d[2]);
        store(out + 2 * position, d[2] - d[1]);
        store(out + 3 * position, d[1] - d[3]);
      }
    }
  }
}

// Sums of 16 positions to 2x2 outputs: A' m A.
void transform_outputs(const float* from, int64_t position, const Shape& shape, int64_t channels,
                       int64_t channel, int64_t first, int64_t count, const float* bias,
                       float* y) {
  for (int64_t tile = 0; tile < count; tile++, from += CHUNK) {
    const int64_t image = (first + tile) / shape.tiles_an_image();
    const int64_t inside = (first + tile) % shape.tiles_an_image();
    const int64_t row = 2 * (inside / shape.columns()), column = 2 * (inside % shape.columns());
    float* to = y + ((image * shape.height + row) * shape.width + column) * channels + channel;
    for (int64_t c = 0; c < CHUNK; c += LANES) {
      vec t[8];
      for (int j = 0; j < 4; j++) {
        const float* m = from + c + j * position;
        const vec m0 = load(m), m1 = load(m + 4 * position), m2 = load(m + 8 * position),
                  m3 = load(m + 12 * position);
        t[j] = m0 + m1 + m2;
        t[4 + j] = m1 - m2 - m3;
      }
      const vec b = bias ? load(bias + channel + c) : vec{};
      for (int i = 0; i < 2; i++) {
        const vec* m = t + 4 * i;
        float* out = to + c + i * shape.width * channels;
        store(out, m[0] + m[1] + m[2] + b);
        store(out + channels, m[1] - m[2] - m[3] + b);
      }
    }
  }
}

// Gradients of 2x2 outputs to 16 positions: A g A'; their sums are added to `sums` (or null).
void transform_gradients(const float* grad, const Shape& shape, int64_t channels,
                         int64_t channel, int64_t first, int64_t count, float* to,
                         int64_t position, float* sums) {
  for (int64_t tile = 0; tile < count; tile++, to += CHUNK) {
    const int64_t image = (first + tile) / shape.tiles_an_image();
    const int64_t inside = (first + tile) % shape.tiles_an_image();
    const int64_t row = 2 * (inside / shape.columns()), column = 2 * (inside % shape.columns());
    const float* g =
        grad + ((image * shape.height + row) * shape.width + column) * channels + channel;
    for (int64_t c = 0; c < CHUNK; c += LANES) {
      vec t[8];
      for (int j = 0; j < 2; j++) {
        const vec g0 = load(g + c + j * channels);
        const vec g1 = load(g + c + (shape.width + j) * channels);
        t[j] = g0;
        t[2 + j] = g0 + g1;
        t[4 + j] = g0 - g1;
        t[6 + j] = -g1;
      }
      if (sums) store(sums + c, load(sums + c) + (t[2] + t[3]));
      for (int i = 0; i < 4; i++) {
        const vec g0 = t[2 * i], g1 = t[2 * i + 1];
        float* out = to + c + 4 * i * position;
        store(out, g0);
        store(out + position, g0 + g1);
        store(out + 2 * position, g0 - g1);
        store(out + 3 * position, -g1);
      }
    }
  }
}

// COLUMNS of out [R, CHUNK] (+)= a [R, CHUNK] panel [CHUNK, COLUMNS].
template <int R>
inline void multiply_rows(const float* a, const float* panel, float* out, bool add) {
  vec sum[R][WIDE];
  for (int r = 0; r < R; r++)
    for (int j = 0; j < WIDE; j++) sum[r][j] = add ? load(out + r * CHUNK + j * LANES) : vec{};
  for (int64_t c = 0; c < CHUNK; c++) {
    vec b[WIDE];
    for (int j = 0; j < WIDE; j++) b[j] = load(panel + c * COLUMNS + j * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int j = 0; j < WIDE; j++) sum[r][j] += a[r * CHUNK + c] * b[j];
  }
  for (int r = 0; r < R; r++)
    for (int j = 0; j < WIDE; j++) store(out + r * CHUNK + j * LANES, sum[r][j]);
}

// out [rows, CHUNK] (+)= a [rows, CHUNK] panel [CHUNK / COLUMNS, CHUNK, COLUMNS].
void multiply(const float* a, const float* panel, float* out, int64_t rows, bool add) {
  for (int64_t column = 0; column < CHUNK; column += COLUMNS) {
    const float* columns = panel + column * CHUNK;
    float* to = out + column;
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
      multiply_rows<ROWS>(a + row * CHUNK, columns, to + row * CHUNK, add);
    for (; row + 2 <= rows; row += 2)
      multiply_rows<2>(a + row * CHUNK, columns, to + row * CHUNK, add);
    for (; row < rows; row++)
      multiply_rows<1>(a + row * CHUNK, columns, to + row * CHUNK, add);
  }
}

// out [CHUNK, CHUNK] += a [rows, CHUNK] transposed, times b [rows, CHUNK].
void multiply_transposed(const float* a, const float* b, float* out, int64_t rows) {
  const int R = 4;
  for (int64_t column = 0; column < CHUNK; column += COLUMNS)
    for (int64_t c = 0; c < CHUNK; c += R) {
      vec sum[R][WIDE];
      float* to = out + c * CHUNK + column;
      for (int r = 0; r < R; r++)
        for (int j = 0; j < WIDE; j++) sum[r][j] = load(to + r * CHUNK + j * LANES);
      for (int64_t row = 0; row < rows; row++) {
        const float* left = a + row * CHUNK + c;
        vec right[WIDE];
        for (int j = 0; j < WIDE; j++) right[j] = load(b + row * CHUNK + column + j * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
          for (int j = 0; j < WIDE; j++) sum[r][j] += left[r] * right[j];
      }
      for (int r = 0; r < R; r++)
        for (int j = 0; j < WIDE; j++) store(to + r * CHUNK + j * LANES, sum[r][j]);
    }
}

template <class In>
void convolve(const In* x, const float* panels, const float* bias, float* y, const Shape& shape,
              int64_t inputs, int64_t outputs, int64_t block, int threads) {
  const int64_t blocks = (shape.tiles() + block - 1) / block;
  const int64_t in_chunks = inputs / CHUNK, out_chunks = outputs / CHUNK;
  const int64_t position = block * CHUNK;
#pragma omp parallel num_threads(threads)
  {
    Buffer transformed(16 * position), sums(16 * position * out_chunks);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < blocks; task++) {
      const int64_t first = task * block, count = std::min(block, shape.tiles() - first);
      for (int64_t in = 0; in < in_chunks; in++) {
        transform_inputs(x, shape, inputs, in * CHUNK, first, count, transformed.data, position);
        for (int64_t out = 0; out < out_chunks; out++) {
          const float* panel = panels + (out * in_chunks + in) * 16 * CHUNK * CHUNK;
          for (int64_t p = 0; p < 16; p++)
            multiply(transformed.data + p * position, panel + p * CHUNK * CHUNK,
                     sums.data + (out * 16 + p) * position, count, in > 0);
        }
      }
      for (int64_t out = 0; out < out_chunks; out++)
        transform_outputs(sums.data + out * 16 * position, position, shape, outputs, out * CHUNK,
                          first, count, bias, y);
    }
  }
}

}  // namespace

extern "C" {

int sddpm_winograd_supported() {
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
  return 1;
#else
  return 0;
#endif
}

// Kernels in memory [outputs, 3, 3, inputs] to panels
// [outputs / CHUNK, inputs / CHUNK, 16, CHUNK / COLUMNS (outputs), CHUNK (inputs),
// COLUMNS (outputs)]: G g G'.
// `backward`: of the convolution that the gradient of the input is: inputs and outputs change
// roles and the kernel is turned around.
void sddpm_winograd_weights(const float* weight, float* panels, int64_t outputs, int64_t inputs,
                            int backward, int threads) {
  const int64_t from = backward ? outputs : inputs, to = backward ? inputs : outputs;
  const int64_t from_stride = backward ? 9 * inputs : 1, to_stride = backward ? 1 : 9 * inputs;
  const int64_t row_stride = 9 * inputs;
#pragma omp parallel for num_threads(threads) collapse(2) schedule(static)
  for (int64_t out = 0; out < to; out += LANES)
    for (int64_t start = 0; start < from; start += LANES) {
      alignas(64) float taken[9][LANES][LANES];  // tap, lane in memory's order of the other two
      const float* w = weight + start * from_stride + out * to_stride;
      for (int64_t tap = 0; tap < 9; tap++)
        for (int64_t row = 0; row < LANES; row++)
          store(taken[tap][row], load(w + (backward ? 8 - tap : tap) * inputs + row * row_stride));
      for (int64_t lane = 0; lane < LANES; lane++) {
        vec g[9], t[12];
        for (int tap = 0; tap < 9; tap++)
          if (backward)
            g[tap] = load(taken[tap][lane]);
          else
            for (int row = 0; row < LANES; row++) g[tap][row] = taken[tap][row][lane];
        for (int j = 0; j < 3; j++) {
          const vec ends = g[j] + g[6 + j];
          t[j] = g[j];
          t[3 + j] = 0.5f * (ends + g[3 + j]);
          t[6 + j] = 0.5f * (ends - g[3 + j]);
          t[9 + j] = g[6 + j];
        }
        const int64_t in = start + lane, panel = out / CHUNK * (from / CHUNK) + in / CHUNK;
        float* put = panels + panel * 16 * CHUNK * CHUNK + in % CHUNK * COLUMNS +
                     out % CHUNK / COLUMNS * COLUMNS * CHUNK + out % COLUMNS;
        for (int i = 0; i < 4; i++, put += 4 * CHUNK * CHUNK) {
          const vec *u = t + 3 * i, ends = u[0] + u[2];
          store(put, u[0]);
          store(put + CHUNK * CHUNK, 0.5f * (ends + u[1]));
          store(put + 2 * CHUNK * CHUNK, 0.5f * (ends - u[1]));
          store(put + 3 * CHUNK * CHUNK, u[2]);
        }
      }
    }
}

// y = convolution of x by the kernels in `panels`, plus bias [outputs] (or null). x is float32,
// or uint8 if `bytes`.
void sddpm_winograd(int bytes, const void* x, const float* panels, const float* bias, float* y,
                    int64_t images, int64_t height, int64_t width, int64_t inputs,
                    int64_t outputs, int64_t block, int threads) {
  const Shape shape{images, height, width};
  if (bytes)
    convolve((const uint8_t*)x, panels, bias, y, shape, inputs, outputs, block, threads);
  else
    convolve((const float*)x, panels, bias, y, shape, inputs, outputs, block, threads);
}

// Gradient of the kernels [parts, outputs, 3, 3, inputs] and of the bias [parts, outputs], in
// `parts` sums over a share of the tiles each; the caller adds them up.
void sddpm_winograd_weight_gradient(const float* x, const float* grad, float* weight,
                                    float* bias, int64_t images, int64_t height, int64_t width,
                                    int64_t inputs, int64_t outputs, int64_t block,
                                    int64_t parts, int threads) {
  const Shape shape{images, height, width};
  const int64_t in_chunks = inputs / CHUNK, out_chunks = outputs / CHUNK;
  const int64_t position = block * CHUNK, square = CHUNK * CHUNK;
  const int64_t share = (shape.tiles() + parts - 1) / parts;
#pragma omp parallel num_threads(threads)
  {
    Buffer left(16 * position), right(16 * position), sums(16 * square);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < parts * in_chunks * out_chunks; task++) {
      const int64_t part = task % parts, in = task / parts % in_chunks;
      const int64_t out = task / parts / in_chunks;
      float bias_sums[CHUNK] = {}, turned[LANES][9][CHUNK + LANES];  // no multiple of a page
      std::memset(sums.data, 0, 16 * square * sizeof(float));
      const int64_t end = std::min(shape.tiles(), (part + 1) * share);
      for (int64_t first = part * share; first < end; first += block) {
        const int64_t count = std::min(block, end - first);
        transform_inputs(x, shape, inputs, in * CHUNK, first, count, left.data, position);
        transform_gradients(grad, shape, outputs, out * CHUNK, first, count, right.data,
                            position, in ? nullptr : bias_sums);
        for (int64_t p = 0; p < 16; p++)
          multiply_transposed(left.data + p * position, right.data + p * position,
                              sums.data + p * square, count);
      }
      if (!in)
        std::memcpy(bias + part * outputs + out * CHUNK, bias_sums, sizeof(bias_sums));
      for (int64_t k = 0; k < CHUNK; k += LANES) {
        for (int64_t c = 0; c < CHUNK; c++) {
          const float* u = sums.data + c * CHUNK + k;
          vec t[12];
          for (int j = 0; j < 4; j++) {
            const vec u0 = load(u + j * square), u1 = load(u + (4 + j) * square);
            const vec u2 = load(u + (8 + j) * square), u3 = load(u + (12 + j) * square);
            const vec both = 0.5f * (u1 + u2);
            t[j] = u0 + both;
            t[4 + j] = 0.5f * (u1 - u2);
            t[8 + j] = both + u3;
          }
          for (int i = 0; i < 3; i++) {
            const vec *v = t + 4 * i, both = 0.5f * (v[1] + v[2]);
            const vec taps[3] = {v[0] + both, 0.5f * (v[1] - v[2]), both + v[3]};
            for (int j = 0; j < 3; j++)
              for (int lane = 0; lane < LANES; lane++) turned[lane][3 * i + j][c] = taps[j][lane];
          }
        }
        float* to = weight + (part * outputs + out * CHUNK + k) * 9 * inputs + in * CHUNK;
        for (int row = 0; row < LANES * 9; row++)
          for (int64_t c = 0; c < CHUNK; c += LANES)
            store(to + row * inputs + c, load(turned[row / 9][row % 9] + c));
      }
    }
  }
}
}
