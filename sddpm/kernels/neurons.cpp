// Kernels of the spiking U-Net on the CPU, called from kernels.py through plain C pointers.
//
// A tensor is [steps, images, pixels, channels] in memory (time-major, channels last). Work is
// cut into blocks of whole pixels of one image; a block's membranes stay in the first cache
// through all spiking steps, so every tensor is read or written once. Arithmetic is float32.
//
// Type codes: 0 float32, 1 bfloat16, 2 uint8. Neuron codes: 0 integrate-and-fire,
// 1 leak by division (`leak` is tau), 2 leak by multiplication (`leak` is 1 / tau),
// 3 integer neuron in a single step: counts of up to `leak` events.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#define SIMD _Pragma("omp simd")

namespace {

struct bf16 {
  uint16_t bits;
};

inline float load(float value) { return value; }
inline float load(bf16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline void store(float* to, float value) { *to = value; }
inline void store(uint8_t* to, float value) { *to = uint8_t(value); }
inline void store(bf16* to, float value) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = uint16_t(value != value ? 0x7fc0u : rounded);
}

const int64_t BLOCK = 2048;         // numbers a block: four buffers of it fit the first cache
const int64_t PARALLEL_FROM = 32768;  // numbers below which threads cost more than they save

struct Shape {
  int64_t steps, images, pixels, channels;
  int64_t rows() const { return std::max<int64_t>(1, BLOCK / channels); }  // pixels a block
  int64_t blocks() const { return (pixels + rows() - 1) / rows(); }        // blocks an image
  int64_t step() const { return images * pixels * channels; }
  int64_t size() const { return steps * step(); }
};

// The affine map in front of a neuron, repeated over the pixels of a block.
struct Affine {
  const float* scale;  // [channels] or null
  const float* shift;  // [images, channels], [channels] (image_stride 0) or null
  int64_t image_stride;

  void tile(const Shape& shape, int64_t image, float* scales, float* shifts) const {
    for (int64_t row = 0; row < shape.rows(); row++) {
      SIMD for (int64_t c = 0; c < shape.channels; c++) {
        if (scale) scales[row * shape.channels + c] = scale[c];
        if (shift) shifts[row * shape.channels + c] = shift[image * image_stride + c];
      }
    }
  }
  void apply(float* x, const float* scales, const float* shifts, int64_t count) const {
    if (scale)
      SIMD for (int64_t i = 0; i < count; i++) x[i] *= scales[i];
    if (shift)
      SIMD for (int64_t i = 0; i < count; i++) x[i] += shifts[i];
  }
};

// v: membranes before the step; x: input currents. Afterwards v holds the charged membranes.
inline void charge(int neuron, float leak, float* v, const float* x, int64_t count) {
  if (neuron == 0)
    SIMD for (int64_t i = 0; i < count; i++) v[i] = v[i] + x[i];
  else if (neuron == 1)
    SIMD for (int64_t i = 0; i < count; i++) v[i] = v[i] + (x[i] - v[i]) / leak;
  else
    SIMD for (int64_t i = 0; i < count; i++) v[i] = v[i] + (x[i] - v[i]) * leak;
}

inline void store_spike(float* to, bool fired) { *to = fired ? 1.0f : 0.0f; }
inline void store_spike(bf16* to, bool fired) { to->bits = fired ? 0x3f80 : 0; }
inline void store_spike(uint8_t* to, bool fired) { *to = fired; }

// Charge, fire and reset in one pass; v as in `charge`, but reset where there is a spike.
template <int NEURON, class Out>
void emit_as(float leak, float theta, float* v, const float* x, Out* spikes, int64_t count) {
  SIMD for (int64_t i = 0; i < count; i++) {
    const float h = NEURON == 0   ? v[i] + x[i]
                    : NEURON == 1 ? v[i] + (x[i] - v[i]) / leak
                                  : v[i] + (x[i] - v[i]) * leak;
    const bool fired = h >= theta;
    v[i] = fired ? 0.0f : h;
    store_spike(spikes + i, fired);
  }
}

// Events of an integer neuron: the current in units of theta, clipped and rounded, halves up.
template <class Out>
void emit_counts(float most, float theta, const float* x, Out* counts, int64_t count) {
  SIMD for (int64_t i = 0; i < count; i++) {
    const float scaled = x[i] / theta, low = scaled > 0 ? scaled : 0.0f;
    store(counts + i, float(int32_t((low < most ? low : most) + 0.5f)));
  }
}

template <class Out>
void emit(int neuron, float leak, float theta, float* v, const float* x, Out* spikes,
          int64_t count) {
  if (neuron == 0)
    emit_as<0>(leak, theta, v, x, spikes, count);
  else if (neuron == 1)
    emit_as<1>(leak, theta, v, x, spikes, count);
  else if (neuron == 2)
    emit_as<2>(leak, theta, v, x, spikes, count);
  else
    emit_counts(leak, theta, x, spikes, count);
}

inline const float* where(const float* from) { return from; }
inline const float* where(const bf16*) { return nullptr; }

// scale from + shift + residual, each but `from` may be null: in `to`, or where `from` stands if
// there is nothing to compute.
template <class In>
const float* gather(const In* from, const float* scale, const float* shift, const In* residual,
                    float* to, int64_t count) {
  if (!scale && !shift && !residual && where(from)) return where(from);
  if (scale)
    SIMD for (int64_t i = 0; i < count; i++) to[i] = load(from[i]) * scale[i];
  else if (shift && residual)
    SIMD for (int64_t i = 0; i < count; i++)
      to[i] = load(from[i]) + shift[i] + load(residual[i]);
  else if (shift)
    SIMD for (int64_t i = 0; i < count; i++) to[i] = load(from[i]) + shift[i];
  else if (residual)
    SIMD for (int64_t i = 0; i < count; i++) to[i] = load(from[i]) + load(residual[i]);
  else
    SIMD for (int64_t i = 0; i < count; i++) to[i] = load(from[i]);
  if (scale && shift)
    SIMD for (int64_t i = 0; i < count; i++) to[i] += shift[i];
  if (scale && residual)
    SIMD for (int64_t i = 0; i < count; i++) to[i] += load(residual[i]);
  return to;
}

template <class In, class Out>
void fire(const In* y, const In* residual, In* sum, Out* spikes, const Shape shape, Affine affine,
          int64_t y_step, int64_t spikes_pixel, int neuron, float leak, float theta, int threads) {
  const int64_t rows = shape.rows(), width = rows * shape.channels;
  const int64_t tasks = shape.images * shape.blocks();
#pragma omp parallel num_threads(threads) if (shape.size() > PARALLEL_FROM)
  {
    std::vector<float> buffer(4 * width);
    float *scales = buffer.data(), *shifts = scales + width, *v = shifts + width, *x = v + width;
    int64_t tiled = -1;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; task++) {
      const int64_t image = task / shape.blocks(), pixel = task % shape.blocks() * rows;
      const int64_t here = std::min(rows, shape.pixels - pixel), count = here * shape.channels;
      const int64_t start = (image * shape.pixels + pixel) * shape.channels;
      if (tiled != image) affine.tile(shape, tiled = image, scales, shifts);
      std::fill(v, v + count, 0.0f);
      for (int64_t s = 0; s < shape.steps; s++) {
        const In* from = y + s * y_step + start;
        const int64_t at = s * shape.step() + start;
        const float* currents =
            gather(from, affine.scale ? scales : nullptr, affine.shift ? shifts : nullptr,
                   residual ? residual + at : nullptr, x, count);
        if (sum)
          SIMD for (int64_t i = 0; i < count; i++) store(sum + at + i, currents[i]);
        if (!spikes) continue;
        Out* to = spikes + ((s * shape.images + image) * shape.pixels + pixel) * spikes_pixel;
        const int64_t pieces = spikes_pixel == shape.channels ? 1 : here, piece = count / pieces;
        for (int64_t row = 0; row < pieces; row++) {
          const int64_t start_of = row * piece;
          emit(neuron, leak, theta, v + start_of, currents + start_of, to + row * spikes_pixel,
               piece);
        }
      }
    }
  }
}

// Rate neurons, for inference: soft reset, membranes that start at half the threshold, spikes of
// theta; `take_back` also emits -theta where a membrane is below 0 after earlier spikes. Each
// current is divided by its channel's balance first and each spike multiplied by it (null: 1).
template <class In>
void fire_rate(const In* y, In* spikes, const Shape shape, const float* balance, bool take_back,
               float theta, int threads) {
  const int64_t rows = shape.rows(), width = rows * shape.channels;
  const int64_t tasks = shape.images * shape.blocks();
#pragma omp parallel num_threads(threads) if (shape.size() > PARALLEL_FROM)
  {
    std::vector<float> buffer(4 * width, 1.0f);
    float *balances = buffer.data(), *u = balances + width, *x = u + width, *net = x + width;
    if (balance)
      for (int64_t row = 0; row < rows; row++)
        std::copy(balance, balance + shape.channels, balances + row * shape.channels);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; task++) {
      const int64_t image = task / shape.blocks(), pixel = task % shape.blocks() * rows;
      const int64_t count = std::min(rows, shape.pixels - pixel) * shape.channels;
      const int64_t start = (image * shape.pixels + pixel) * shape.channels;
      std::fill(u, u + count, theta / 2);
      std::fill(net, net + count, 0.0f);
      for (int64_t s = 0; s < shape.steps; s++) {
        const int64_t at = s * shape.step() + start;
        SIMD for (int64_t i = 0; i < count; i++) x[i] = load(y[at + i]);
        if (balance)
          SIMD for (int64_t i = 0; i < count; i++) x[i] /= balances[i];
        SIMD for (int64_t i = 0; i < count; i++) {
          const float charged = u[i] + x[i], spike = charged - theta >= 0 ? 1.0f : 0.0f;
          u[i] = charged - spike * theta;
          x[i] = spike;
        }
        if (take_back)
          SIMD for (int64_t i = 0; i < count; i++) {
            const float back = (u[i] < 0) & (net[i] > 0) ? 1.0f : 0.0f;
            u[i] += back * theta;
            x[i] -= back;
            net[i] += x[i];
          }
        SIMD for (int64_t i = 0; i < count; i++)
          store(spikes + at + i, x[i] * theta * balances[i]);
      }
    }
  }
}

// Gradient of `fire` with respect to the neuron's input currents, from the currents alone:
// membranes are computed again. sums: [images, 2, channels] receives the sums over steps and
// pixels of the gradient and of gradient times y (null: not wanted); totals: [2] receives the
// gradients of theta and of leak.
template <class In>
void fire_backward(const In* y, const In* grad_spikes, In* grad, double* sums, double* totals,
                   const Shape shape, Affine affine, int neuron, float leak, float theta,
                   float alpha, int threads) {
  const int64_t rows = shape.rows(), width = rows * shape.channels, channels = shape.channels;
  const int64_t tasks = shape.images * shape.blocks();
  const float half_pi_alpha = 1.57079632679489662f * alpha;
  double total_theta = 0, total_leak = 0;
#pragma omp parallel num_threads(threads) if (shape.size() > PARALLEL_FROM) \
    reduction(+ : total_theta, total_leak)
  {
    std::vector<float> buffer((7 + 2 * shape.steps) * width);
    float *scales = buffer.data(), *shifts = scales + width, *v = shifts + width;
    float *thetas = v + width, *leaks = thetas + width, *sum = leaks + width, *sum_y = sum + width;
    float *xs = sum_y + width, *hs = xs + shape.steps * width;
    int64_t tiled = -1;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; task++) {
      const int64_t image = task / shape.blocks(), pixel = task % shape.blocks() * rows;
      const int64_t count = std::min(rows, shape.pixels - pixel) * channels;
      const int64_t start = (image * shape.pixels + pixel) * channels;
      if (tiled != image) affine.tile(shape, tiled = image, scales, shifts);
      std::fill(v, v + 5 * width, 0.0f);  // v, thetas, leaks, sum, sum_y
      for (int64_t s = 0; s < shape.steps; s++) {
        const In* from = y + s * shape.step() + start;
        float *x = xs + s * width, *h = hs + s * width;
        SIMD for (int64_t i = 0; i < count; i++) x[i] = load(from[i]);
        affine.apply(x, scales, shifts, count);
        if (neuron == 3) continue;  // it has no membrane
        charge(neuron, leak, v, x, count);
        SIMD for (int64_t i = 0; i < count; i++) {
          h[i] = v[i];
          v[i] = v[i] >= theta ? 0.0f : v[i];
        }
      }
      std::fill(v, v + count, 0.0f);  // from here on: the gradient of the membrane
      for (int64_t s = shape.steps - 1; s >= 0; s--) {
        const int64_t at = s * shape.step() + start;
        float *x = xs + s * width, *h = hs + s * width;
        const float* before = s ? h - width : nullptr;
        if (neuron == 3)  // straight through where the count is not clipped
          SIMD for (int64_t i = 0; i < count; i++) {
            const float scaled = x[i] / theta;
            v[i] = (scaled >= 0) & (scaled <= leak) ? load(grad_spikes[at + i]) / theta : 0.0f;
            thetas[i] -= v[i] * scaled;
          }
        else
          SIMD for (int64_t i = 0; i < count; i++) {
          const float over = h[i] - theta, scaled = half_pi_alpha * over;
          const float slope = alpha / 2 / (1 + scaled * scaled);
          const float at_spike = (load(grad_spikes[at + i]) - v[i] * h[i]) * slope;
          thetas[i] -= at_spike;
          v[i] = at_spike + (over >= 0 ? 0.0f : v[i]);
        }
        if (neuron == 2 && before)
          SIMD for (int64_t i = 0; i < count; i++)
            leaks[i] += v[i] * (x[i] - (before[i] >= theta ? 0.0f : before[i]));
        else if (neuron == 2)
          SIMD for (int64_t i = 0; i < count; i++) leaks[i] += v[i] * x[i];
        const bool leaks_charge = neuron == 1 || neuron == 2;
        const float share = !leaks_charge ? 1.0f : neuron == 1 ? 1.0f / leak : leak;
        const float keep = leaks_charge ? 1.0f - share : 1.0f;
        SIMD for (int64_t i = 0; i < count; i++) {
          x[i] = v[i] * share;
          v[i] *= keep;
          store(grad + at + i, x[i]);
        }
        if (sums)
          SIMD for (int64_t i = 0; i < count; i++) {
            sum[i] += x[i];
            sum_y[i] += x[i] * load(y[at + i]);
          }
      }
      for (int64_t i = 0; i < count; i++) {
        total_theta += thetas[i];
        total_leak += leaks[i];
      }
      if (!sums) continue;
      for (int64_t row = channels; row < count; row += channels)
        SIMD for (int64_t c = 0; c < channels; c++) {
          sum[c] += sum[row + c];
          sum_y[c] += sum_y[row + c];
        }
      double* to = sums + image * 2 * channels;
      for (int64_t c = 0; c < channels; c++) {
#pragma omp atomic
        to[c] += sum[c];
#pragma omp atomic
        to[channels + c] += sum_y[c];
      }
    }
  }
  totals[0] = total_theta;
  totals[1] = total_leak;
}

// sums: [2, channels] receives, over rows, the sums of a and of a times b, where
// b is a itself less `center` if it is null: then both are of (a - center).
template <class In>
void channel_sums(const In* a, const In* b, const float* center, double* sums, int64_t rows,
                  int64_t channels, int threads) {
  const int64_t group = std::max<int64_t>(1, 2 * BLOCK / channels);
  const int64_t tasks = (rows + group - 1) / group;
#pragma omp parallel num_threads(threads) if (rows * channels > PARALLEL_FROM)
  {
    std::vector<double> total(2 * channels);
    std::vector<float> buffer(2 * channels);
    float *sum = buffer.data(), *product = sum + channels;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; task++) {
      std::fill(buffer.begin(), buffer.end(), 0.0f);
      for (int64_t row = task * group; row < std::min(rows, (task + 1) * group); row++) {
        const In *left = a + row * channels, *right = b ? b + row * channels : nullptr;
        if (right)
          SIMD for (int64_t c = 0; c < channels; c++) {
            sum[c] += load(left[c]);
            product[c] += load(left[c]) * load(right[c]);
          }
        else
          SIMD for (int64_t c = 0; c < channels; c++) {
            const float value = load(left[c]) - center[c];
            sum[c] += value;
            product[c] += value * value;
          }
      }
      SIMD for (int64_t c = 0; c < 2 * channels; c++) total[c] += buffer[c];
    }
#pragma omp critical
    SIMD for (int64_t c = 0; c < 2 * channels; c++) sums[c] += total[c];
  }
}

// out = scale a + other b + shift, per channel; out may be a.
template <class In>
void combine(const In* a, const In* b, In* out, const float* scale, const float* other,
             const float* shift, int64_t rows, int64_t channels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * channels > PARALLEL_FROM)
  for (int64_t row = 0; row < rows; row++) {
    const In *left = a + row * channels, *right = b + row * channels;
    In* to = out + row * channels;
    SIMD for (int64_t c = 0; c < channels; c++)
      store(to + c, scale[c] * load(left[c]) + other[c] * load(right[c]) + shift[c]);
  }
}

template <class In>
void fire_to(int out, const void* y, const void* residual, void* sum, void* spikes,
             const Shape& shape, const Affine& affine, int64_t y_step, int64_t spikes_pixel,
             int neuron, float leak, float theta, int threads) {
  auto *y_ = (const In*)y, *residual_ = (const In*)residual;
  if (out == 0)
    fire(y_, residual_, (In*)sum, (float*)spikes, shape, affine, y_step, spikes_pixel, neuron,
         leak, theta, threads);
  else if (out == 1)
    fire(y_, residual_, (In*)sum, (bf16*)spikes, shape, affine, y_step, spikes_pixel, neuron,
         leak, theta, threads);
  else
    fire(y_, residual_, (In*)sum, (uint8_t*)spikes, shape, affine, y_step, spikes_pixel, neuron,
         leak, theta, threads);
}

}  // namespace

extern "C" {

void sddpm_fire(int in, int out, const void* y, const void* residual, void* sum, void* spikes,
                int64_t steps, int64_t images, int64_t pixels, int64_t channels,
                const float* scale, const float* shift, int64_t shift_image, int64_t y_step,
                int64_t spikes_pixel, int neuron, float leak, float theta, int threads) {
  const Shape shape{steps, images, pixels, channels};
  const Affine affine{scale, shift, shift_image};
  if (in == 0)
    fire_to<float>(out, y, residual, sum, spikes, shape, affine, y_step, spikes_pixel, neuron,
                   leak, theta, threads);
  else
    fire_to<bf16>(out, y, residual, sum, spikes, shape, affine, y_step, spikes_pixel, neuron,
                  leak, theta, threads);
}

void sddpm_fire_rate(int in, const void* y, void* spikes, int64_t steps, int64_t images,
                     int64_t pixels, int64_t channels, const float* balance, int take_back,
                     float theta, int threads) {
  const Shape shape{steps, images, pixels, channels};
  if (in == 0)
    fire_rate((const float*)y, (float*)spikes, shape, balance, take_back, theta, threads);
  else
    fire_rate((const bf16*)y, (bf16*)spikes, shape, balance, take_back, theta, threads);
}

void sddpm_fire_backward(int in, const void* y, const void* grad_spikes, void* grad, double* sums,
                         double* totals, int64_t steps, int64_t images, int64_t pixels,
                         int64_t channels, const float* scale, const float* shift,
                         int64_t shift_image, int neuron, float leak, float theta, float alpha,
                         int threads) {
  const Shape shape{steps, images, pixels, channels};
  const Affine affine{scale, shift, shift_image};
  if (in == 0)
    fire_backward((const float*)y, (const float*)grad_spikes, (float*)grad, sums, totals, shape,
                  affine, neuron, leak, theta, alpha, threads);
  else
    fire_backward((const bf16*)y, (const bf16*)grad_spikes, (bf16*)grad, sums, totals, shape,
                  affine, neuron, leak, theta, alpha, threads);
}

void sddpm_channel_sums(int in, const void* a, const void* b, const float* center, double* sums,
                        int64_t rows, int64_t channels, int threads) {
  if (in == 0)
    channel_sums((const float*)a, (const float*)b, center, sums, rows, channels, threads);
  else
    channel_sums((const bf16*)a, (const bf16*)b, center, sums, rows, channels, threads);
}

void sddpm_combine(int in, const void* a, const void* b, void* out, const float* scale,
                   const float* other, const float* shift, int64_t rows, int64_t channels,
                   int threads) {
  if (in == 0)
    combine((const float*)a, (const float*)b, (float*)out, scale, other, shift, rows, channels,
            threads);
  else
    combine((const bf16*)a, (const bf16*)b, (bf16*)out, scale, other, shift, rows, channels,
            threads);
}
}
