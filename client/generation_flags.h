// The flags of everything that generates: one for each field of GenerationOptions, with the field's name.
#ifndef SPILLWAY_CLIENT_GENERATION_FLAGS_H_
#define SPILLWAY_CLIENT_GENERATION_FLAGS_H_

#include <cstdint>

#include "client/flags.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::client {

// A flag that is not given leaves its field unset, so that the model's own default applies. Ranges are the
// daemon's to judge: it names every bad field at once. `options` must outlive the table.
void AddGenerationFlags(FlagTable& flags, v1::GenerationOptions* options);

// Choices that the daemon will answer with, should it accept `options`.
int32_t ChoicesOf(const v1::GenerationOptions& options);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_GENERATION_FLAGS_H_
