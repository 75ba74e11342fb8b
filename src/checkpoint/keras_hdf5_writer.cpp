#include "checkpoint/keras_hdf5_writer.h"

#include <hdf5.h>

#include <map>
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

Handle datatype_of(DType dtype) {
  if (dtype == DType::bf16) return {H5Tcreate(H5T_OPAQUE, 2), H5Tclose};
  return {H5Tcopy(dtype == DType::f64 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE), H5Tclose};
}

class KerasHdf5Writer final : public CheckpointWriter {
 public:
  KerasHdf5Writer(std::string path, const std::vector<OutputTensor>& tensors)
      : path_(std::move(path)), file_(open_file()) {
    Handle parents(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(parents.get(), 1);
    // Keras asks for it.
    check(Handle(H5Gcreate2(file_->get(), "vars", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose).get());
    for (const OutputTensor& tensor : tensors) add(tensor, parents.get());
  }

  void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) override {
    auto found = datasets_.find(name);
    WEFT_ASSERT(found != datasets_.end(), "{} is not among what is written", name);
    const Dataset& dataset = found->second;
    auto size = static_cast<int64_t>(dtype_bytes(dataset.dtype));
    converted_.resize(static_cast<size_t>(count * size));
    convert_dtype(values, dtype, converted_.data(), dataset.dtype, count);
    write_rows(dataset, first, count);
  }

  void finish() override {
    check(H5Fflush(file_->get(), H5F_SCOPE_GLOBAL));
    datasets_.clear();
    file_.reset();
    OutputFile values = OutputFile::open(partial_path());
    values.sync();
    rename_durably(partial_path(), path_);
  }

 private:
  struct Dataset {
    Handle id;
    DType dtype = DType::f32;
  };

  std::string partial_path() const { return path_ + ".partial"; }

  void check(int64_t status) const {
    if (status < 0) fail_input("{}: cannot be written; disk full?", printable(path_));
  }

  std::unique_ptr<Handle> open_file() const {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    hid_t id = H5Fcreate(partial_path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (id < 0) fail_input("{}: cannot be made", printable(partial_path()));
    return std::make_unique<Handle>(id, H5Fclose);
  }

  void add(const OutputTensor& tensor, hid_t parents) {
    std::vector<hsize_t> dims(tensor.shape.begin(), tensor.shape.end());
    Handle space(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose);
    Handle type = datatype_of(tensor.dtype);
    Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
    Handle id(
        H5Dcreate2(file_->get(), tensor.name.c_str(), type.get(), space.get(), parents, creation.get(), H5P_DEFAULT),
        H5Dclose);
    check(id.get());
    if (tensor.dtype == DType::bf16) add_dtype_attribute(id.get());
    datasets_.emplace(tensor.name, Dataset{.id = std::move(id), .dtype = tensor.dtype});
  }

  void add_dtype_attribute(hid_t dataset) const {
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), H5T_VARIABLE);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    Handle attribute(H5Acreate2(dataset, "dtype", type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    const char* value = "bfloat16";
    check(H5Awrite(attribute.get(), type.get(), &value));
  }

  void write_rows(const Dataset& dataset, int64_t first, int64_t count) {
    Handle file_space(H5Dget_space(dataset.id.get()), H5Sclose);
    int rank = H5Sget_simple_extent_ndims(file_space.get());
    std::vector<hsize_t> dims(static_cast<size_t>(rank));
    H5Sget_simple_extent_dims(file_space.get(), dims.data(), nullptr);
    int64_t row = 1;
    for (size_t i = 1; i < dims.size(); ++i) row *= static_cast<int64_t>(dims[i]);
    WEFT_ASSERT(rank == 0 || (first % row == 0 && count % row == 0), "values come by whole rows");
    hsize_t flat = static_cast<hsize_t>(count);
    Handle memory(H5Screate_simple(1, &flat, nullptr), H5Sclose);
    if (rank > 0) {
      std::vector<hsize_t> start(dims.size()), size = dims;
      start[0] = static_cast<hsize_t>(first / row);
      size[0] = static_cast<hsize_t>(count / row);
      H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr);
    }
    Handle type(H5Dget_type(dataset.id.get()), H5Tclose);
    check(H5Dwrite(dataset.id.get(), type.get(), memory.get(), file_space.get(), H5P_DEFAULT, converted_.data()));
  }

  std::string path_;
  std::unique_ptr<Handle> file_;
  std::map<std::string, Dataset, std::less<>> datasets_;
  std::vector<std::byte> converted_;
};

}  // namespace

std::unique_ptr<CheckpointWriter> make_keras_hdf5_writer(const std::string& path,
                                                         const std::vector<OutputTensor>& tensors) {
  return std::make_unique<KerasHdf5Writer>(path, tensors);
}

}  // namespace weft
