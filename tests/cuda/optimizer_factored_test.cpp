// The passes of Adafactor over matrices, of which a rank has a slice and a piece a run.
#include "cuda/cuda_test.h"
#include "kernels/optimizer.h"

namespace weft {
namespace {

/// A slice of `matrices` matrices [rows, columns] and the run [map.first, map.first + count) of it.
struct FactoredCase {
  int64_t matrices, rows, columns;
  ElementMap map;
  int64_t count, offset;
};
constexpr FactoredCase kFactoredCases[] = {
    // Columns 30 … 129 of two matrices.
    {2, 331, 200, {.first = 5, .local_width = 100, .full_width = 200, .offset = 30}, 2 * 331 * 100 - 11, 0},
    {2, 331, 200, {.first = 5, .local_width = 100, .full_width = 200, .offset = 30}, 2 * 331 * 100 - 11, 1},
    // Rows 100 … 199 of three.
    {3, 300, 64, {.first = 70, .local_width = 6400, .full_width = 19200, .offset = 6400}, 12000, 0},
    // From row 100 of one on, as a first dim is cut.
    {1, 1000, 33, {.first = 17, .local_width = 10000, .full_width = 10000, .offset = 3300}, 9000, 3},
    // Matrices 2 and 3 of four, as another first dim is cut.
    {4, 50, 40, {.first = 0, .local_width = 4000, .full_width = 4000, .offset = 4000}, 4000, 0},
    // All of one; a single element; rows narrower than a pack.
    {1, 4096, 512, {.first = 0, .local_width = 4096 * 512, .full_width = 4096 * 512, .offset = 0}, 4096 * 512, 0},
    {2, 10, 10, {.first = 123, .local_width = 200, .full_width = 200, .offset = 0}, 1, 0},
    {1, 3000, 3, {.first = 1, .local_width = 9000, .full_width = 9000, .offset = 0}, 8000, 0}};

TEST(CudaFactored, Sums) {
  WEFT_NEEDS_GPU();
  for (const FactoredCase& part : kFactoredCases) {
    SCOPED_TRACE(::testing::Message() << part.rows << " x " << part.columns << ", " << part.count << " elements");
    auto grad = Twin<float>::random(part.count + part.offset, 1);
    std::vector<std::vector<double>> rows, columns;
    // The sums may begin at a later row and column than the parameter does.
    int64_t first_row = part.map.full_index(0) / part.columns;
    int64_t first_column = part.map.full_index(0) / (part.rows * part.columns) * part.columns;
    on_both([&](const Side& side) {
      rows.emplace_back(part.matrices * part.rows - first_row, 1.0);
      columns.emplace_back(part.matrices * part.columns - first_column, 2.0);
      side.kernels().optimizer.factored_sums({.grad = grad.on(side) + part.offset,
                                              .map = part.map,
                                              .count = part.count,
                                              .rows = part.rows,
                                              .columns = part.columns,
                                              .gradient_scale = 0.5,
                                              .epsilon = 0.125,
                                              .row_sums = rows.back().data(),
                                              .column_sums = columns.back().data(),
                                              .first_row = first_row,
                                              .first_column = first_column},
                                             side.stream);
    });
    for (size_t i = 0; i < rows[0].size(); ++i) EXPECT_NEAR(rows[1][i], rows[0][i], 1e-12 * rows[0][i]) << "row " << i;
    for (size_t i = 0; i < columns[0].size(); ++i) {
      EXPECT_NEAR(columns[1][i], columns[0][i], 1e-12 * columns[0][i]) << "column " << i;
    }
  }
}

TEST(CudaFactored, Update) {
  WEFT_NEEDS_GPU();
  for (const FactoredCase& part : kFactoredCases) {
    SCOPED_TRACE(::testing::Message() << part.rows << " x " << part.columns << ", " << part.count << " elements");
    auto grad = Twin<float>::random(part.count + part.offset, 1);
    Twin<float> update(part.count + part.offset);
    // Factors lie on the host.
    std::vector<float> row_factors = Twin<float>::random(part.matrices * part.rows, 2).host();
    std::vector<float> column_factors = Twin<float>::random(part.matrices * part.columns, 3).host();
    on_both([&](const Side& side) {
      side.kernels().optimizer.factored_update({.grad = grad.on(side) + part.offset,
                                                .update = update.on(side) + part.offset,
                                                .map = part.map,
                                                .count = part.count,
                                                .rows = part.rows,
                                                .columns = part.columns,
                                                .gradient_scale = 0.37,
                                                .row_factors = row_factors.data(),
                                                .column_factors = column_factors.data()},
                                               side.stream);
    });
    expect_same(update, 4e-7, 0);
  }
}

}  // namespace
}  // namespace weft
