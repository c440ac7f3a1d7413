#include "bench/shaped_model.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace spillway::bench {

absl::StatusOr<model::Model> LoadShapedModel(const std::string& config_json, device::Device& device,
                                             const model::WeightOptions& options, device::Encoding matrices) {
  std::string path = "/tmp/spillway-bench-XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd < 0) return absl::UnavailableError("no temporary file can be made in /tmp");
  close(fd);
  std::ofstream file(path);
  file << config_json;
  file.close();
  absl::StatusOr<model::Model> model =
      file.fail() ? absl::UnavailableError("no temporary file can be written in /tmp")
                  : model::LoadRandomModel(path, /*seed=*/1, device, options, matrices);
  std::remove(path.c_str());
  return model;
}

}  // namespace spillway::bench
