// weft doctor: what it makes of facts that no test machine has, and the built program alone and under mpirun.
#include <map>
#include <nlohmann/json.hpp>

#include "launcher/doctor_findings.h"
#include "support/command_test.h"

namespace weft {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// Ranks on one host with a GPU each, where all is well.
std::vector<RankFacts> ranks_with_gpus(int num_ranks) {
  std::vector<RankFacts> ranks;
  for (int rank = 0; rank < num_ranks; ++rank) {
    RankFacts facts;
    facts.rank = facts.local_rank = facts.gpu = rank;
    facts.host = "node1";
    facts.threads = 8;
    facts.mpi_library = "Open MPI v4.1.4";
    facts.num_gpus = num_ranks;
    facts.has_driver = true;
    facts.gpus = {{.index = rank,
                   .name = "GPU",
                   .architecture = 90,
                   .memory_bytes = 80'000'000'000,
                   .free_bytes = 79'000'000'000,
                   .pci_bus_id = "0000:0" + std::to_string(rank)}};
    facts.copies = {.is_measured = true,
                    .to_device_bytes_per_second = 25e9,
                    .to_host_bytes_per_second = 20e9,
                    .within_bytes_per_second = 2e12};
    facts.nccl_version = "2.28.9";
    facts.host_all_reduce = {.is_measured = true,
                             .backend = "mpi",
                             .small_bytes = 8,
                             .large_bytes = 64'000'000,
                             .small_seconds = 2e-6,
                             .large_seconds = 0.02};
    facts.device_all_reduce = facts.host_all_reduce;
    facts.device_all_reduce.backend = "nccl";
    facts.device_all_reduce.large_seconds = 0.001 * (rank + 1);
    ranks.push_back(facts);
  }
  return ranks;
}

Finding finding_of(const std::vector<RankFacts>& ranks, const std::string& check) {
  for (const Finding& finding : judge(ranks)) {
    if (finding.check == check) return finding;
  }
  ADD_FAILURE() << "no check " << check;
  return {};
}

TEST(Doctor, NothingIsWrongWithAGpuForEveryRank) {
  std::vector<Finding> findings = judge(ranks_with_gpus(2));
  for (const Finding& finding : findings) EXPECT_EQ(finding.status, FindingStatus::ok) << finding.check << finding.text;
  EXPECT_TRUE(has_passed(findings));
  // The slower rank's time.
  EXPECT_THAT(finding_of(ranks_with_gpus(2), "all_reduce, GPUs").text, HasSubstr("64 MB in 2.00 ms (32.00 GB/s)"));
}

TEST(Doctor, ARankWithoutAGpuAmongOthersFails) {
  std::vector<RankFacts> ranks = ranks_with_gpus(2);
  ranks[1].num_gpus = 0;
  ranks[1].gpu = -1;
  ranks[1].gpus.clear();
  ranks[1].no_gpu_reason = "no GPU is visible";
  Finding finding = finding_of(ranks, "ranks and GPUs");
  EXPECT_EQ(finding.status, FindingStatus::failed);
  EXPECT_THAT(finding.text, AllOf(HasSubstr("rank 1 on node1"), HasSubstr("no GPU is visible")));
  EXPECT_EQ(finding_of(ranks, "copies").status, FindingStatus::skipped);
  EXPECT_FALSE(has_passed(judge(ranks)));
}

TEST(Doctor, RanksThatShareAGpuAreAWarningAndTheSameAddressOnTwoHostsIsNot) {
  std::vector<RankFacts> ranks = ranks_with_gpus(2);
  ranks[1].gpus[0].pci_bus_id = ranks[0].gpus[0].pci_bus_id;
  EXPECT_EQ(finding_of(ranks, "ranks and GPUs").status, FindingStatus::warning);
  EXPECT_EQ(finding_of(ranks, "GPUs").text, "1 GPU");
  EXPECT_TRUE(has_passed(judge(ranks)));
  ranks[1].host = "node2";
  EXPECT_EQ(finding_of(ranks, "ranks and GPUs").status, FindingStatus::ok);
  EXPECT_EQ(finding_of(ranks, "GPUs").text, "2 GPUs");
}

TEST(Doctor, LibrariesThatAreMissingAreFindings) {
  std::vector<RankFacts> ranks = ranks_with_gpus(2);
  ranks[0].no_nccl_reason = "NCCL cannot be loaded: libnccl.so.2";
  Finding nccl = finding_of(ranks, "NCCL");
  EXPECT_EQ(nccl.status, FindingStatus::warning);
  EXPECT_THAT(nccl.text, HasSubstr("libnccl.so.2"));
  EXPECT_TRUE(has_passed(judge(ranks)));
  ranks[1].product_error = "CUDA: libcublasLt.so.13 cannot be loaded";
  Finding products = finding_of(ranks, "kernels, cuBLASLt");
  EXPECT_EQ(products.status, FindingStatus::failed);
  EXPECT_THAT(products.text, AllOf(HasSubstr("rank 1"), HasSubstr("libcublasLt")));
  EXPECT_THAT(products.advice, HasSubstr("LD_LIBRARY_PATH"));
}

TEST(Doctor, ADriverWithoutAGpuThatCanBeUsedIsAWarning) {
  RankFacts facts;
  facts.num_gpus = 0;
  facts.no_gpu_reason = "no GPU is visible";
  EXPECT_EQ(finding_of({facts}, "GPUs").status, FindingStatus::skipped);
  facts.has_driver = true;
  EXPECT_EQ(finding_of({facts}, "GPUs").status, FindingStatus::warning);
}

TEST(Doctor, SlownessAndErrorsOfAnyRankAreSeen) {
  std::vector<RankFacts> ranks = ranks_with_gpus(3);
  ranks[2].copies.to_host_bytes_per_second = 1e9;
  ranks[0].pairs_without_peer_access = {{0, 2}};
  ranks[1].gpus[0].free_bytes = 10'000'000'000;
  ranks[1].device_all_reduce.large_seconds = 1;
  for (const char* check : {"copies", "peer access", "GPUs", "all_reduce, GPUs"}) {
    EXPECT_EQ(finding_of(ranks, check).status, FindingStatus::warning) << check;
    EXPECT_NE(finding_of(ranks, check).advice, "") << check;
  }
  EXPECT_TRUE(has_passed(judge(ranks)));
  ranks[1].host_all_reduce.error = "an all_reduce gave 2 instead of 6";
  EXPECT_EQ(finding_of(ranks, "all_reduce, host").status, FindingStatus::failed);
  ranks[2].copies.error = "byte 7 came back from the GPU with another value";
  EXPECT_EQ(finding_of(ranks, "copies").status, FindingStatus::failed);
}

TEST(Doctor, FactsAreTheSameAfterTheirWayToAnotherRank) {
  std::vector<RankFacts> ranks = ranks_with_gpus(2);
  ranks[1].pairs_without_peer_access = {{0, 1}, {1, 0}};
  ranks[1].binding_warning = "ranks are bound to 1 core";
  for (const RankFacts& facts : ranks) EXPECT_EQ(write_facts(read_facts(write_facts(facts))), write_facts(facts));
  EXPECT_EQ(findings_text(judge({read_facts(write_facts(ranks[0])), read_facts(write_facts(ranks[1]))})),
            findings_text(judge(ranks)));
}

class DoctorCommand : public testing::CommandTest {
 protected:
  /// With the GPUs hidden, if this machine has some.
  testing::Outcome doctor(int num_ranks, const std::string& arguments) const {
    std::string mpirun =
        num_ranks == 1 ? ""
                       : fmt::format("mpirun --allow-run-as-root --oversubscribe --bind-to none -n {} ", num_ranks);
    return shell(fmt::format("CUDA_VISIBLE_DEVICES= timeout 120 {}WEFT doctor {}", mpirun, arguments));
  }
};

std::map<std::string, json> checks_by_name(const json& report) {
  std::map<std::string, json> checks;
  for (const json& check : report.at("checks")) checks[check.at("check")] = check;
  return checks;
}

TEST_F(DoctorCommand, AloneItSkipsWhatNeedsOtherRanksOrAGpu) {
  testing::Outcome outcome = doctor(1, "--json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(outcome.err, "");
  json report = json::parse(outcome.out);
  EXPECT_TRUE(report.at("passed").get<bool>());
  ASSERT_EQ(report.at("ranks").size(), 1u);
  EXPECT_NE(report.at("ranks")[0].at("host"), "");
  EXPECT_EQ(report.at("ranks")[0].at("gpu"), -1);
  std::map<std::string, json> checks = checks_by_name(report);
  EXPECT_EQ(checks.at("ranks").at("status"), "ok");
  EXPECT_THAT(checks.at("MPI").at("text").get<std::string>(), HasSubstr("MPI"));
  EXPECT_EQ(checks.at("all_reduce, host").at("status"), "skipped");
  for (const char* check :
       {"ranks and GPUs", "kernels, cuBLASLt", "copies", "peer access", "NCCL", "all_reduce, GPUs"}) {
    EXPECT_EQ(checks.at(check).at("status"), "skipped") << check;
    EXPECT_EQ(checks.at(check).at("text"), "no GPU") << check;
  }
}

TEST_F(DoctorCommand, TwoRanksMeasureWhatMpiMoves) {
  testing::Outcome outcome = doctor(2, "--json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1) << outcome.out;
  json report = json::parse(outcome.out);
  ASSERT_EQ(report.at("ranks").size(), 2u);
  EXPECT_THAT(checks_by_name(report).at("all_reduce, host").at("text").get<std::string>(),
              AllOf(HasSubstr("mpi: 8 bytes in"), HasSubstr("64 MB in")));
  for (int rank = 0; rank < 2; ++rank) {
    const json& facts = report.at("ranks")[rank];
    EXPECT_EQ(facts.at("rank"), rank);
    EXPECT_EQ(facts.at("local_rank"), rank);
    EXPECT_GT(facts.at("host_all_reduce").at("small_seconds").get<double>(), 0);
    EXPECT_GT(facts.at("host_all_reduce").at("large_seconds").get<double>(), 0);
  }
}

TEST_F(DoctorCommand, TheTableHasALineACheckAndSaysWhyWhatIsMissingWasSkipped) {
  testing::Outcome outcome = doctor(1, "");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("\nMPI                    ok       "));
  EXPECT_THAT(outcome.out, HasSubstr("skipped: no GPU\n"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("FAILED")));
  EXPECT_THAT(doctor(1, "--help").out, AllOf(HasSubstr("Usage: weft doctor"), HasSubstr("Examples:")));
  expect_one_line_error(doctor(1, "--nonsense"), 2, HasSubstr("nonsense"));
}

}  // namespace
}  // namespace weft
