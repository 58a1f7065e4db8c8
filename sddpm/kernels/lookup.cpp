// Convolutions of binary spikes by looking sums up, called from lookup.py through plain C
// pointers.
//
// Four spikes have 16 patterns, and for each the sum of the selected weights can be had before
// any pixel is seen. A table holds these sums of four inputs for a block of outputs; a pixel
// then costs one addition of a row for every four inputs, with no multiplication: an addition
// of 16-bit numbers does the work of 64 products a 256-bit vector, one of 32-bit numbers that
// of 32. Tables of a chunk of inputs fit the first cache. They are made from the weights when
// they are needed and serve all pixels of a block, so weights are kept in memory once.
//
// Sums are exact: weights are integers, and the caller promises that no subset of the weights
// that are added up before a flush leaves the range of the type (lookup.py proves it from the
// weights). 16-bit sums are then flushed into 32-bit ones.
//
// Spikes become patterns first: a byte for four channels, 16 times the pattern, in an image
// with a border of zeros, so that no pixel needs a test for edges.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

#if defined(__AVX512BW__)
const int64_t VECTOR = 64;
#elif defined(__AVX2__)
const int64_t VECTOR = 32;
#else
const int64_t VECTOR = 16;
#endif
const int64_t ROW = 2 * VECTOR;        // bytes of a table's row: two vectors of sums
const int64_t TABLE = 16 * ROW + 64;   // bytes of a table; rows of others in other sets
// Groups of four inputs a chunk: 16 KiB of tables, or 8 where vectors are short.
const int64_t GROUPS = VECTOR == 64 ? 8 : 16;
const int64_t PIXELS = 512;       // of a block at most
const int64_t LEAST_PIXELS = 64;  // fewer pixels do not repay the making of tables

struct Buffer {  // page-aligned memory
  explicit Buffer(int64_t bytes)
      : data((char*)std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  char* data;
};

struct bf16 {
  uint16_t bits;
};
inline float load(float value) { return value; }
inline float load(bf16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline void store(float* to, float value) { *to = value; }
inline void store(bf16* to, float value) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  to->bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// What a convolution reads and writes. Windows start at (row * stride + top, column * stride +
// left) of the image with its border; results go to pixel (row * spread + down, ...).
struct Shape {
  int64_t images, height, width;     // of the input
  int64_t rows, columns;             // of the output, of one phase of it if doubling
  int64_t groups, outputs;           // input channels in fours; output channels
  int64_t kernel, stride;
  int64_t phases;                    // 1, or 4 of a doubled image
  int64_t line() const { return (width + 2) * groups; }
  int64_t image() const { return (height + 2) * line(); }
  int64_t pixels() const { return images * rows * columns; }
  int64_t chunks_a_tap() const { return (groups + GROUPS - 1) / GROUPS; }
  int64_t chunks() const { return kernel * kernel * chunks_a_tap(); }
};

template <class Sum>
struct Row {
  typedef Sum vec __attribute__((vector_size(VECTOR)));
  typedef Sum unaligned __attribute__((vector_size(VECTOR), aligned(sizeof(Sum))));
  static const int64_t LANES = ROW / sizeof(Sum);
  vec low, high;
};

// The tables of `groups` times four inputs from weights [groups, 4, LANES].
template <class Sum>
void make_tables(const Sum* weights, int64_t groups, char* tables) {
  for (int64_t group = 0; group < groups; group++) {
    const Sum* w = weights + 4 * group * Row<Sum>::LANES;
    Row<Sum>* table = (Row<Sum>*)(tables + group * TABLE);
    table[0] = Row<Sum>{};
#pragma GCC unroll 4
    for (int bit = 0; bit < 4; bit++) {
      const auto* at = (const typename Row<Sum>::unaligned*)(w + bit * Row<Sum>::LANES);
      const Row<Sum> weight{at[0], at[1]};
#pragma GCC unroll 8
      for (int below = 0; below < 1 << bit; below++) {
        table[(1 << bit) + below].low = table[below].low + weight.low;
        table[(1 << bit) + below].high = table[below].high + weight.high;
      }
    }
  }
}

template <class Sum>
inline void add_row(Row<Sum>& sum, const char* table, uint64_t pattern) {
  const Row<Sum>* row = (const Row<Sum>*)(table + pattern * (ROW / 16));
  sum.low += row->low;
  sum.high += row->high;
}

// Add the rows that `count` pixels select in `COUNT` tables to their sums.
template <class Sum, int COUNT>
void add_rows(const uint8_t* patterns, const int32_t* offsets, int64_t count, const char* tables,
              Row<Sum>* sums, bool first) {
  for (int64_t pixel = 0; pixel < count; pixel++) {
    const uint8_t* at = patterns + offsets[pixel];
    Row<Sum> sum = first ? Row<Sum>{} : sums[pixel];
    // Loads are what bounds this loop, so eight patterns are loaded at once.
#pragma GCC unroll 2
    for (int start = 0; start + 8 <= COUNT; start += 8) {
      uint64_t packed;
      std::memcpy(&packed, at + start, 8);
#pragma GCC unroll 4
      for (int group = start; group < start + 8; group += 2) {
        const uint64_t one = uint8_t(packed), other = uint8_t(packed >> 8);
        packed >>= 16;
        add_row(sum, tables + group * TABLE, one);
        add_row(sum, tables + (group + 1) * TABLE, other);
        // Addresses of many rows at once would not fit the registers.
        if (group % 4 == 2) __asm__ volatile("" : "+r"(packed) : : "memory");
      }
    }
#pragma GCC unroll 4
    for (int group = COUNT / 8 * 8; group < COUNT; group++)
      add_row(sum, tables + group * TABLE, at[group]);
    sums[pixel] = sum;
  }
}

template <class Sum>
void add_chunk(int64_t groups, const uint8_t* patterns, const int32_t* offsets, int64_t count,
               const char* tables, Row<Sum>* sums, bool first) {
  while (groups > 0) {
    int64_t done = 1;
    if (groups >= 16)
      add_rows<Sum, 16>(patterns, offsets, count, tables, sums, first), done = 16;
    else if (groups >= 8)
      add_rows<Sum, 8>(patterns, offsets, count, tables, sums, first), done = 8;
    else if (groups >= 4)
      add_rows<Sum, 4>(patterns, offsets, count, tables, sums, first), done = 4;
    else
      add_rows<Sum, 1>(patterns, offsets, count, tables, sums, first);
    groups -= done, patterns += done, tables += done * TABLE, first = false;
  }
}

// Four bytes, 0 or 1, to a byte of 16 times their pattern.
inline void make_groups(const uint8_t* __restrict from, int64_t count, uint8_t* __restrict to) {
  for (int64_t group = 0; group < count; group++) {
    uint32_t four;
    std::memcpy(&four, from + 4 * group, 4);
    to[group] = uint8_t((four | four >> 7 | four >> 14 | four >> 21) << 4);
  }
}

// Bytes [images, height, width, channels], 0 or 1, to patterns.
void make_patterns(const uint8_t* spikes, int64_t channels, const Shape& shape, uint8_t* patterns,
                   int threads) {
  const int64_t whole = channels / 4;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t line = 0; line < shape.images * (shape.height + 2); line++) {
    uint8_t* to = patterns + line * shape.line();
    const int64_t image = line / (shape.height + 2), row = line % (shape.height + 2) - 1;
    if (row < 0 || row >= shape.height) {
      std::memset(to, 0, shape.line());
      continue;
    }
    std::memset(to, 0, shape.groups);
    std::memset(to + shape.line() - shape.groups, 0, shape.groups);
    to += shape.groups;
    const uint8_t* from = spikes + (image * shape.height + row) * shape.width * channels;
    if (channels % 4 == 0) {  // groups follow one another, whatever pixel they are of
      make_groups(from, shape.width * shape.groups, to);
      continue;
    }
    for (int64_t column = 0; column < shape.width; column++) {
      make_groups(from, whole, to);
      int pattern = 0;
      for (int64_t c = 4 * whole; c < channels; c++) pattern |= from[c] << (c % 4 + 4);
      to[whole] = uint8_t(pattern);
      from += channels, to += shape.groups;
    }
  }
}

// to [count] (+)= scale sums + bias.
template <class Sum, class Out>
void finish(const Sum* sums, const float* scale, const float* bias, int64_t count, bool add,
            Out* to) {
  if (add)
    for (int64_t c = 0; c < count; c++)
      store(to + c, float(sums[c]) * scale[c] + bias[c] + load(to[c]));
  else
    for (int64_t c = 0; c < count; c++) store(to + c, float(sums[c]) * scale[c] + bias[c]);
}

template <class Sum, class Out>
void convolve(const uint8_t* patterns, const Sum* weights, const float* scale, const float* bias,
              Out* y, const Shape& shape, int64_t flush, bool add, int threads) {
  const int64_t lanes = Row<Sum>::LANES, blocks = (shape.outputs + lanes - 1) / lanes;
  // Blocks of pixels: enough for all threads, as long as tables are repaid.
  int64_t most = PIXELS;
  while (most > LEAST_PIXELS &&
         blocks * shape.phases * ((shape.pixels() + most - 1) / most) < 2 * threads)
    most /= 2;
  const int64_t parts = (shape.pixels() + most - 1) / most;
  const int64_t share = (shape.pixels() + parts - 1) / parts;
  const bool flushed = flush < shape.chunks();
  const int64_t a_block = shape.kernel * shape.kernel * shape.groups * 4 * lanes;
#pragma omp parallel num_threads(threads)
  {
    Buffer tables(GROUPS * TABLE), sums_memory(share * ROW), offsets_memory(share * 4);
    Buffer totals_memory(flushed ? share * lanes * 4 : 1);
    Row<Sum>* sums = (Row<Sum>*)sums_memory.data;
    int32_t *offsets = (int32_t*)offsets_memory.data, *totals = (int32_t*)totals_memory.data;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < parts * shape.phases * blocks; task++) {
      const int64_t part = task / (shape.phases * blocks), phase = task / blocks % shape.phases;
      const int64_t block = task % blocks;
      const int64_t start = part * share, count = std::min(share, shape.pixels() - start);
      if (count <= 0) continue;
      // A 1x1 kernel starts inside the border, a phase of a doubled image where it says.
      const int64_t top = shape.phases > 1 ? phase / 2 : shape.kernel == 1;
      const int64_t left = shape.phases > 1 ? phase % 2 : shape.kernel == 1;
      const uint8_t* base = patterns + start / (shape.rows * shape.columns) * shape.image();
      for (int64_t pixel = 0; pixel < count; pixel++) {
        const int64_t image = (start + pixel) / (shape.rows * shape.columns);
        const int64_t inside = (start + pixel) % (shape.rows * shape.columns);
        const int64_t row = inside / shape.columns * shape.stride + top;
        const int64_t column = inside % shape.columns * shape.stride + left;
        offsets[pixel] =
            int32_t(image * shape.image() + row * shape.line() + column * shape.groups -
                    (base - patterns));
      }
      const Sum* from = weights + (phase * blocks + block) * a_block;
      int64_t since = 0;
      bool empty = true;
      for (int64_t chunk = 0; chunk < shape.chunks(); chunk++) {
        const int64_t tap = chunk / shape.chunks_a_tap();
        const int64_t group = chunk % shape.chunks_a_tap() * GROUPS;
        const int64_t here = std::min(GROUPS, shape.groups - group);
        make_tables(from, here, tables.data);
        from += here * 4 * lanes;
        add_chunk(here,
                  base + tap / shape.kernel * shape.line() + tap % shape.kernel * shape.groups +
                      group,
                  offsets, count, tables.data, sums, since == 0);
        if (flushed && (++since == flush || chunk == shape.chunks() - 1)) {
          const Sum* sum = (const Sum*)sums;
          if (empty)
            for (int64_t i = 0; i < count * lanes; i++) totals[i] = sum[i];
          else
            for (int64_t i = 0; i < count * lanes; i++) totals[i] += sum[i];
          since = 0, empty = false;
        } else if (!flushed) {
          since = 1;
        }
      }
      const int64_t first = block * lanes, wide = std::min(lanes, shape.outputs - first);
      const float *scales = scale + phase * shape.outputs + first;
      const float *biases = bias + first;
      const int64_t spread = shape.phases > 1 ? 2 : 1;
      for (int64_t pixel = 0; pixel < count; pixel++) {
        int64_t at = start + pixel;
        if (spread == 2) {
          const int64_t line = at / shape.columns, column = at % shape.columns;
          at = (line * 2 + phase / 2) * shape.columns * 2 + column * 2 + phase % 2;
        }
        Out* to = y + at * shape.outputs + first;
        if (flushed)
          finish(totals + pixel * lanes, scales, biases, wide, add, to);
        else
          finish((const Sum*)(sums + pixel), scales, biases, wide, add, to);
      }
    }
  }
}

}  // namespace

extern "C" {

// Outputs of a block of 16-bit sums; blocks of 32-bit ones have half as many.
int64_t sddpm_lookup_lanes() { return ROW / 2; }

// Input channels of a chunk.
int64_t sddpm_lookup_chunk() { return 4 * GROUPS; }

// Bytes of the patterns of spikes.
int64_t sddpm_lookup_patterns_size(int64_t images, int64_t height, int64_t width,
                                   int64_t channels) {
  return images * (height + 2) * (width + 2) * ((channels + 3) / 4);
}

// y [images, rows, columns, outputs] = scale [phases, outputs] * sums + bias [outputs].
//
// spikes: [images, height, width, channels], bytes 0 or 1. weights: [phases, blocks of outputs,
// kernel, kernel, channels in fours, 4, lanes], int16, or int32 if `wide`. flush: chunks whose
// sums stay in the type. doubling: of the image doubled in height and width, four phases of a
// 2x2 kernel. Otherwise the padding is kernel / 2; kernel is 1 or 3. brief: y is bfloat16. add: to what
// y holds.
void sddpm_lookup(const uint8_t* spikes, const void* weights, const float* scale,
                  const float* bias, void* y, uint8_t* patterns, int64_t images, int64_t height,
                  int64_t width, int64_t channels, int64_t outputs, int64_t kernel,
                  int64_t stride, int64_t flush, int doubling, int wide, int brief, int add,
                  int threads) {
  const Shape shape{images,
                    height,
                    width,
                    doubling ? height : (height - 1) / stride + 1,
                    doubling ? width : (width - 1) / stride + 1,
                    (channels + 3) / 4,
                    outputs,
                    kernel,
                    stride,
                    doubling ? 4 : 1};
  make_patterns(spikes, channels, shape, patterns, threads);
  if (wide && brief)
    convolve(patterns, (const int32_t*)weights, scale, bias, (bf16*)y, shape, flush, add, threads);
  else if (wide)
    convolve(patterns, (const int32_t*)weights, scale, bias, (float*)y, shape, flush, add, threads);
  else if (brief)
    convolve(patterns, (const int16_t*)weights, scale, bias, (bf16*)y, shape, flush, add, threads);
  else
    convolve(patterns, (const int16_t*)weights, scale, bias, (float*)y, shape, flush, add, threads);
}
}
