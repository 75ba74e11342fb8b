// Tensor shapes: up to six dimensions, row-major.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace weft {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  Shape(const int64_t* begin, const int64_t* end);

  int rank() const { return rank_; }
  /// Negative dims count from the end.
  int64_t operator[](int dim) const { return dims_[static_cast<size_t>(dim < 0 ? dim + rank_ : dim)]; }
  void set(int dim, int64_t size) { dims_[static_cast<size_t>(dim < 0 ? dim + rank_ : dim)] = size; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  int64_t num_elements() const;
  bool operator==(const Shape& other) const;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// "[3072, 24576]"
std::string to_string(const Shape& shape);

}  // namespace weft
