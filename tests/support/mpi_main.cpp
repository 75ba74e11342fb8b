// main() of test binaries whose ranks are processes: MPI around GoogleTest, and a rank that fails fails the job.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdlib>

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) {
    // One report is enough; failures of other ranks are still printed, by their assertions.
    delete testing::UnitTest::GetInstance()->listeners().Release(
        testing::UnitTest::GetInstance()->listeners().default_result_printer());
    struct PrintFailures : testing::EmptyTestEventListener {
      int rank;
      explicit PrintFailures(int r) : rank(r) {}
      void OnTestPartResult(const testing::TestPartResult& result) override {
        if (result.failed()) {
          std::fprintf(
              stderr, "rank %d: %s:%d\n%s\n", rank, result.file_name(), result.line_number(), result.message());
        }
      }
    };
    testing::UnitTest::GetInstance()->listeners().Append(new PrintFailures(rank));
  }
  const int own_result = RUN_ALL_TESTS();
  int result = own_result;
  MPI_Allreduce(&own_result, &result, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return result;
}
