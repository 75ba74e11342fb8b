#include "checkpoint/keras_hdf5_writer.h"

#include <hdf5.h>

#include <utility>

#include "checkpoint/output_file.h"
#include "core/error.h"

namespace weft {
namespace {

/// An HDF5 identifier that is closed with its owner.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

/// Keeps the library from printing while it lives.
class Silence {
 public:
  Silence() {
    H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Silence() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }
  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;

 private:
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

Handle half_type() {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  // Sign at bit 15, five bits of exponent from 10 on, ten of mantissa from 0 on.
  H5Tset_fields(type.get(), 15, 10, 5, 0, 10);
  H5Tset_size(type.get(), 2);
  H5Tset_ebias(type.get(), 15);
  return type;
}

Handle datatype_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return {H5Tcreate(H5T_OPAQUE, 2), H5Tclose};
    case DType::f16:
      return half_type();
    case DType::f32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case DType::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case DType::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case DType::i64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case DType::u8:
      return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
  }
  return {-1, H5Tclose};
}

/// Makes the groups and datasets; the library then closes the file, and values go to their places like any file's.
class Skeleton {
 public:
  explicit Skeleton(const std::string& path)
      : path_(path), file_(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose) {
    check(file_.get(), "the file");
    // Keras asks for it.
    check(Handle(H5Gcreate2(file_.get(), "vars", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose).get(), "vars");
  }

  /// Returns where the dataset's values lie; 0 for one without elements.
  int64_t add(const OutputTensor& tensor) {
    Handle parents(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(parents.get(), 1);
    std::vector<hsize_t> dims(tensor.shape.begin(), tensor.shape.end());
    Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose);
    Handle type = datatype_of(tensor.dtype);
    Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(creation.get(), false);
    Handle dataset(
        H5Dcreate2(
            file_.get(), tensor.name.c_str(), type.get(), space.get(), parents.get(), creation.get(), H5P_DEFAULT),
        H5Dclose);
    check(dataset.get(), tensor.name);
    if (tensor.dtype == DType::bf16) add_attribute(dataset.get(), "dtype", "bfloat16");
    haddr_t offset = tensor.shape.num_elements() == 0 ? 0 : H5Dget_offset(dataset.get());
    check(offset == HADDR_UNDEF ? -1 : 0, tensor.name);
    return static_cast<int64_t>(offset);
  }

  void name_layer(const std::string& group, const std::string& name) const {
    Handle id(H5Gopen2(file_.get(), group.c_str(), H5P_DEFAULT), H5Gclose);
    check(id.get(), group);
    add_attribute(id.get(), "name", name);
  }

  void flush() const { check(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), "the file"); }

 private:
  void check(int64_t status, const std::string& what) const {
    if (status >= 0) return;
    fail_input("{}: {} cannot be written; disk full, or no right to write there?", printable(path_), printable(what));
  }

  void add_attribute(hid_t object, const char* name, const std::string& text) const {
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), H5T_VARIABLE);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    Handle attribute(H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    const char* value = text.c_str();
    check(H5Awrite(attribute.get(), type.get(), &value), name);
  }

  const std::string& path_;
  Silence silence_;
  Handle file_;
};

class KerasHdf5Writer final : public CheckpointWriter {
 public:
  KerasHdf5Writer(std::string path,
                  const std::vector<OutputTensor>& tensors,
                  const std::map<std::string, std::string>& layer_names)
      : path_(std::move(path)), partial_path_(path_ + ".partial") {
    {
      Skeleton skeleton(partial_path_);
      for (const OutputTensor& tensor : tensors) datasets_[tensor.name] = {tensor, skeleton.add(tensor)};
      for (const auto& [group, name] : layer_names) skeleton.name_layer(group, name);
      skeleton.flush();
    }
    file_ = std::make_unique<OutputFile>(OutputFile::open(partial_path_));
  }

  void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) override {
    auto found = datasets_.find(name);
    WEFT_ASSERT(found != datasets_.end(), "{} is not among what is written", name);
    const Dataset& dataset = found->second;
    WEFT_ASSERT(first >= 0 && count <= dataset.tensor.shape.num_elements() - first, "{}", name);
    auto width = static_cast<int64_t>(dtype_bytes(dataset.tensor.dtype));
    for_each_converted(values, dtype, count, dataset.tensor.dtype, [&](int64_t at, const void* piece, int64_t size) {
      file_->write(dataset.offset + (first + at) * width, piece, size * width);
    });
  }

  void finish() override {
    file_->sync();
    rename_durably(partial_path_, path_);
  }

 private:
  struct Dataset {
    OutputTensor tensor;
    int64_t offset = 0;  // from the file's start
  };

  std::string path_;
  std::string partial_path_;
  std::map<std::string, Dataset, std::less<>> datasets_;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace

std::unique_ptr<CheckpointWriter> make_keras_hdf5_writer(const std::string& path,
                                                         const std::vector<OutputTensor>& tensors,
                                                         const std::map<std::string, std::string>& layer_names) {
  return std::make_unique<KerasHdf5Writer>(path, tensors, layer_names);
}

}  // namespace weft
