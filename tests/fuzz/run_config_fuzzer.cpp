// A config as text and as JSON: read, checked, printed, and the print read again.
#include "config/check_run_config.h"
#include "config/run_config.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  // Bases would be files of this machine.
  if (text.find("extends") != std::string::npos) return 0;
  for (const char* name : {"x.textproto", "x.json"}) {
    weft::expect_only_input_errors([&] {
      weft::RunConfig config = weft::parse_run_config(text, name);
      std::string printed = config.to_text();
      if (weft::parse_run_config(printed, "printed").to_text() != printed) std::abort();
      weft::check_run_config(config);
    });
  }
  return weft::expect_only_input_errors([&] { weft::parse_run_config("", "", {text}); });
}
