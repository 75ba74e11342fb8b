// Filling a model's parameters: from a checkpoint, each rank only its slices, or with random values.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numbers>
#include <set>
#include <thread>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/progress.h"
#include "models/allocate.h"
#include "models/weight_layout.h"

namespace weft {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

/// The layout that a matrix of the model is to have where the device packs. In training only the frozen matrices of
/// blocks are quantized: the output layer's loss wants its rows.
Layout wanted_layout(const Parameter& parameter, const LoadOptions& options) {
  if (options.for_training && parameter.block == kOuterBlock) return Layout::row_major;
  switch (options.quantization) {
    case Quantization::none:
      return options.for_training ? Layout::row_major : Layout::packed;
    case Quantization::int8:
      return Layout::int8;
    case Quantization::int4:
      return parameter.block == kOuterBlock ? Layout::int8 : Layout::int4;
  }
  return Layout::packed;
}

/// Layout::row_major for what is not packed.
PackedStorage packing_of(const Context& context, const Parameter& parameter, const LoadOptions& options) {
  constexpr PackedStorage kNone = {.layout = Layout::row_major, .bytes = 0};
  if (!parameter.is_matrix) return kNone;
  auto query = context.kernels().linear.packed_bytes;
  if (query == nullptr) return kNone;
  Layout layout = wanted_layout(parameter, options);
  if (layout == Layout::row_major) return kNone;
  size_t bytes = query(parameter.local_shape[0], parameter.local_shape[1], options.dtype, layout);
  return bytes == 0 ? kNone : PackedStorage{.layout = layout, .bytes = bytes};
}

void check_quantization(const Context& context, const LanguageModel& model, const LoadOptions& options) {
  if (options.quantization == Quantization::none) return;
  std::string_view name = quantization_name(options.quantization);
  const auto& parameters = model.parameters().all();
  bool has_matrices = std::any_of(parameters.begin(), parameters.end(), [](const Parameter& parameter) {
    return parameter.is_matrix && parameter.block != kOuterBlock;
  });
  if (options.for_training && !has_matrices) {
    fail(
        ExitCode::usage, "{} weights: a {} has no matrices of single blocks; train without", name, model.info().family);
  }
  auto query = context.kernels().linear.packed_bytes;
  if (query != nullptr && query(1, 1, options.dtype, Layout::int8) > 0) return;
  fail(ExitCode::usage,
       "{} weights: the {} backend has none for {}; leave {} out, or compute elsewhere (--device)",
       name,
       device_name(context.device.type),
       dtype_name(options.dtype),
       options.for_training ? "lora.quantize" : "--quantize");
}

bool is_wanted(const Parameter& parameter, const LoadOptions& options) {
  return !options.block || parameter.block == *options.block;
}

/// Whether the value can be filled as it is: a trainer's weights are views of its buffers.
bool is_allocated(const Parameter& parameter, const LoadOptions& options, const PackedStorage& packing) {
  const Tensor& value = parameter.value;
  if (!value || value.shape() != parameter.local_shape || value.dtype() != options.dtype) return false;
  if (value.layout() != packing.layout) return false;
  return packing.layout == Layout::row_major || value.bytes() == packing.bytes;
}

void allocate(const Context& context, Parameter& parameter, const LoadOptions& options) {
  PackedStorage packing = packing_of(context, parameter, options);
  if (is_allocated(parameter, options, packing)) return;
  parameter.value =
      packing.layout == Layout::row_major
          ? context.empty(parameter.local_shape, options.dtype, MemoryTag::weights)
          : Tensor::packed(context.allocator, parameter.local_shape, options.dtype, packing, MemoryTag::weights);
}

/// What a parameter's rows are read in: before they are rounded to few bits they are not rounded to others.
DType dtype_of_rows(const Tensor& value) {
  return is_quantized(value.layout()) ? DType::f32 : value.dtype();
}

/// A stretch of rows of one parameter: what one thread reads at a time.
struct Chunk {
  Parameter* parameter;
  const WeightSource* source;
  uint32_t index;  // of the parameter in the model
  int64_t begin, end;
};

int64_t row_bytes(const Parameter& parameter, DType dtype) {
  int64_t width = parameter.local_shape.rank() == 1 ? 1 : parameter.local_shape[1];
  return width * static_cast<int64_t>(dtype_bytes(dtype));
}

int64_t bytes_of(const std::vector<Chunk>& chunks, DType dtype) {
  int64_t total = 0;
  for (const Chunk& chunk : chunks) total += (chunk.end - chunk.begin) * row_bytes(*chunk.parameter, dtype);
  return total;
}

std::vector<Chunk> split_into_chunks(LanguageModel& model,
                                     const std::vector<WeightSource>& sources,
                                     const LoadOptions& options) {
  std::vector<Chunk> chunks;
  uint32_t index = 0;
  for (Parameter& parameter : model.parameters().all()) {
    const WeightSource& source = sources[index++];
    if (!is_wanted(parameter, options)) continue;
    int64_t rows = parameter.local_shape[0];
    bool any_rows = source.transform == WeightTransform::none || source.transform == WeightTransform::transpose;
    int64_t step = any_rows ? std::max<int64_t>(1, kChunkBytes / row_bytes(parameter, options.dtype) / kPackRowBlock) *
                                  kPackRowBlock
                            : rows;
    for (int64_t begin = 0; begin < rows; begin += step) {
      chunks.push_back({&parameter, &source, index - 1, begin, std::min(rows, begin + step)});
    }
  }
  return chunks;
}

/// Memory that a thread reads into before it packs: kept from chunk to chunk, since fresh pages cost more than the
/// copy.
class ChunkBuffer {
 public:
  std::byte* at_least(size_t bytes) {
    if (bytes > capacity_) {
      memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
      capacity_ = bytes;
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  size_t capacity_ = 0;
};

/// Rows [begin, end) of a parameter's slice come from `fill(into, dtype)`; they are packed on the way where the
/// parameter is.
template <typename Fill>
void place_rows(
    const Context& context, Parameter& parameter, int64_t begin, int64_t end, ChunkBuffer& buffer, const Fill& fill) {
  Tensor& value = parameter.value;
  DType dtype = dtype_of_rows(value);
  int64_t bytes = row_bytes(parameter, dtype);
  if (value.layout() == Layout::row_major && value.is_on_host()) {
    fill(static_cast<std::byte*>(value.raw()) + begin * bytes, dtype);
    return;
  }
  std::byte* rows = buffer.at_least(static_cast<size_t>((end - begin) * bytes));
  fill(rows, dtype);
  if (value.layout() == Layout::row_major) {
    value.slice(begin, end).copy_from_host(rows);
    return;
  }
  Stream stream = context.stream();
  stream.num_threads = 1;
  context.kernels().linear.pack({.rows = rows,
                                 .packed = value.raw(),
                                 .row_begin = begin,
                                 .num_rows = end - begin,
                                 .out_features = value.size(0),
                                 .in_features = value.size(1),
                                 .dtype = dtype,
                                 .layout = value.layout()},
                                stream);
}

/// Runs work(i, the thread's buffer) for all i on several threads; the first exception is thrown again here.
template <typename Work>
void run_on_threads(int num_threads, size_t count, const Work& work) {
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  auto loop = [&] {
    ChunkBuffer buffer;
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        work(i, buffer);
      } catch (...) {
        std::lock_guard lock(failure_mutex);
        if (failure == nullptr) failure = std::current_exception();
        next.store(count);
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min<size_t>(static_cast<size_t>(num_threads), count); ++i) threads.emplace_back(loop);
  loop();
  for (std::thread& thread : threads) thread.join();
  if (failure != nullptr) std::rethrow_exception(failure);
}

/// What begins at random: a task's layer that the checkpoint does not have yet or that is not to be taken from it, or
/// what may be missing.
bool is_new(const OpenedModel& opened,
            const Parameter& parameter,
            const WeightSource& source,
            const LoadOptions& options) {
  if (parameter.is_task_head && opened.info().task_head.begins_anew) return true;
  return (parameter.is_task_head || options.allow_missing) && opened.reader->find(source.theirs) == nullptr;
}

std::vector<WeightSource> resolve_sources(const OpenedModel& opened, LanguageModel& model, const LoadOptions& options) {
  const WeightMap& map = opened.weight_map();
  std::vector<WeightSource> sources;
  std::set<std::string, std::less<>> used;
  for (Parameter& parameter : model.parameters().all()) {
    sources.push_back(find_source(map, parameter, model.info().num_layers));
    if (is_new(opened, parameter, sources.back(), options)) {
      sources.back() = {};
      continue;
    }
    check_source(opened, parameter, sources.back());
    used.insert(sources.back().theirs);
  }
  for (const std::string& name : opened.reader->names()) {
    if (used.count(name) == 0 && !is_ignored(map, name)) {
      fail_input("{}: tensor {} {} has no place in a {} of {} layers; wrong config or family for these weights?",
                 opened.reader->info(name).file,
                 printable(name),
                 to_string(opened.reader->info(name).shape),
                 model.info().family,
                 model.info().num_layers);
    }
  }
  return sources;
}

/// A normal number by Box and Muller from the two uniform ones of an element.
float normal(const RandomKey& key, uint64_t index) {
  float radius = std::sqrt(-2 * std::log(1 - key.uniform(2 * index)));
  return radius * std::cos(2 * std::numbers::pi_v<float> * key.uniform(2 * index + 1));
}

/// Rows [begin, end) of a parameter's slice as its InitialValue says, but for a centre that differs by element.
RandomNormalArgs random_values(const Parameter& parameter, int64_t begin, int64_t end, const RandomKey& key) {
  bool is_vector = parameter.full_shape.rank() == 1;
  bool is_scale = parameter.is_norm && parameter.name.ends_with(".weight");
  return {.rows = end - begin,
          .width = is_vector ? 1 : parameter.local_shape[1],
          .global_width = is_vector ? 1 : parameter.full_shape[1],
          .row_begin = (parameter.range.dim == 0 ? parameter.range.begin : 0) + begin,
          .column_begin = parameter.range.dim == 1 ? parameter.range.begin : 0,
          .deviation = parameter.initial.deviation,
          .centre = is_scale ? 1.0f : 0.0f,
          .key = key};
}

void fill_random(
    const Parameter& parameter, int64_t begin, int64_t end, const RandomKey& key, void* into, DType dtype) {
  RandomNormalArgs args = random_values(parameter, begin, end, key);
  const auto& centre_of = parameter.initial.centre;
  std::vector<float> row(static_cast<size_t>(args.width));
  for (int64_t i = 0; i < args.rows; ++i) {
    for (int64_t j = 0; j < args.width; ++j) {
      auto index = static_cast<uint64_t>((args.row_begin + i) * args.global_width + args.column_begin + j);
      float centre = centre_of ? centre_of(static_cast<int64_t>(index)) : args.centre;
      row[static_cast<size_t>(j)] = args.deviation * normal(key, index) + centre;
    }
    auto* target = static_cast<std::byte*>(into) + static_cast<size_t>(i * args.width) * dtype_bytes(dtype);
    convert_dtype(row.data(), DType::f32, target, dtype, args.width);
  }
}

/// On a device that fills its memory itself. False: the host has to.
bool fill_random_on_device(
    const Context& context, Parameter& parameter, int64_t begin, int64_t end, const RandomKey& key) {
  auto kernel = context.kernels().elementwise.random_normal;
  if (kernel == nullptr || parameter.initial.centre != nullptr) return false;
  if (parameter.value.layout() != Layout::row_major) return false;
  RandomNormalArgs args = random_values(parameter, begin, end, key);
  args.y = parameter.value.slice(begin, end).raw();
  args.dtype = parameter.value.dtype();
  kernel(args, context.stream());
  return true;
}

}  // namespace

int64_t parameter_bytes(const Context& context, const Parameter& parameter, const LoadOptions& options) {
  PackedStorage packing = packing_of(context, parameter, options);
  if (packing.layout != Layout::row_major) return static_cast<int64_t>(packing.bytes);
  return parameter.local_shape.num_elements() * static_cast<int64_t>(dtype_bytes(options.dtype));
}

int64_t allocate_parameters(const Context& context, LanguageModel& model, const LoadOptions& options) {
  int64_t total = 0;
  for (Parameter& parameter : model.parameters().all()) {
    if (!is_wanted(parameter, options)) continue;
    allocate(context, parameter, options);
    total += static_cast<int64_t>(parameter.value.bytes());
  }
  return total;
}

LoadReport load_parameters(const Context& context,
                           const OpenedModel& opened,
                           LanguageModel& model,
                           const LoadOptions& options) {
  auto start = std::chrono::steady_clock::now();
  check_quantization(context, model, options);
  if (opened.reader == nullptr) fail_input("{}: a shape without weights; give a checkpoint", opened.path);
  std::vector<WeightSource> sources = resolve_sources(opened, model, options);
  // Who loads block by block has done it before the first.
  if (!options.block) opened.reader->verify_checksums(model.parameters().place().rank, model.parameters().place().size);
  LoadReport report;
  report.weight_bytes = allocate_parameters(context, model, options);
  int64_t bytes_before = opened.reader->bytes_read();
  std::vector<Chunk> chunks = split_into_chunks(model, sources, options);
  Progress progress("loading weights", bytes_of(chunks, options.dtype), options.show_progress);
  run_on_threads(options.num_threads, chunks.size(), [&](size_t i, ChunkBuffer& buffer) {
    const Chunk& chunk = chunks[i];
    place_rows(context, *chunk.parameter, chunk.begin, chunk.end, buffer, [&](void* into, DType dtype) {
      if (chunk.source->theirs.empty()) {
        RandomKey key{.seed = options.seed, .step = 0, .site = chunk.index};
        return fill_random(*chunk.parameter, chunk.begin, chunk.end, key, into, dtype);
      }
      read_rows(*opened.reader, *chunk.source, *chunk.parameter, chunk.begin, chunk.end, into, dtype);
    });
    progress.add((chunk.end - chunk.begin) * row_bytes(*chunk.parameter, options.dtype));
  });
  report.bytes_read = opened.reader->bytes_read() - bytes_before;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

void initialise_parameters(const Context& context, LanguageModel& model, const LoadOptions& options, uint64_t seed) {
  check_quantization(context, model, options);
  std::vector<WeightSource> no_sources(model.parameters().all().size());
  allocate_parameters(context, model, options);
  std::vector<Chunk> chunks = split_into_chunks(model, no_sources, options);
  run_on_threads(options.num_threads, chunks.size(), [&](size_t i, ChunkBuffer& buffer) {
    const Chunk& chunk = chunks[i];
    RandomKey key{.seed = seed, .step = 0, .site = chunk.index};
    if (fill_random_on_device(context, *chunk.parameter, chunk.begin, chunk.end, key)) return;
    place_rows(context, *chunk.parameter, chunk.begin, chunk.end, buffer, [&](void* into, DType dtype) {
      fill_random(*chunk.parameter, chunk.begin, chunk.end, key, into, dtype);
    });
  });
}

void check_source(const OpenedModel& opened, const Parameter& parameter, const WeightSource& source) {
  const TensorInfo* info = opened.reader->find(source.theirs);
  if (info == nullptr) {
    fail_input("{}: tensor {} {} is missing; wrong config for these weights, or an incomplete download?",
               opened.path,
               source.theirs,
               to_string(format_shape(source, parameter)));
  }
  Shape expected = format_shape(source, parameter);
  if (info->shape != expected) {
    fail_input("{}: {} is {}, config says {}; {}",
               info->file,
               source.theirs,
               to_string(info->shape),
               to_string(expected),
               parameter.is_task_head ? "to train a new layer for the task set task.new_head: true"
                                      : "wrong config for these weights?");
  }
}

}  // namespace weft
