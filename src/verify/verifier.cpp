#include "verify/verifier.h"

#include "core/error.h"
#include "verify/verify_session.h"

namespace weft {

ModelOptions with_golden_options(ModelOptions options, const GoldenFile& golden) {
  if (options.family.empty()) options.family = golden.text_attribute("", "family");
  if (options.compat.empty()) options.compat = golden.text_attribute("", "compat");
  if (options.application.empty()) options.application = golden.text_attribute("", "application");
  if (options.overrides.empty()) options.overrides = golden.text_attribute("", "options");
  return options;
}

VerifyReport verify_model(const Context& context,
                          const OpenedModel& opened,
                          GoldenFile& golden,
                          const VerifyOptions& options) {
  if (opened.reader == nullptr) {
    fail_input("{}: a shape without weights cannot be verified; give a checkpoint", opened.path);
  }
  VerifySession session(context, opened, golden, options);
  verify_keras_layout(session);
  verify_reference_layout(session);
  verify_text_layout(session);
  verify_sentence_layout(session);
  verify_state_layout(session);
  return session.finish();
}

}  // namespace weft
