// Whole command lines against a daemon by script.
#ifndef SPILLWAY_TESTS_CLIENT_SPILLWAY_FIXTURE_H_
#define SPILLWAY_TESTS_CLIENT_SPILLWAY_FIXTURE_H_

#include <sstream>
#include <string>
#include <vector>

#include "client/connection.h"
#include "client/console.h"
#include "client/spillway.h"
#include "gtest/gtest.h"
#include "tests/client/fake_daemon.h"

namespace spillway::client {

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

class SpillwayTest : public ::testing::Test {
 protected:
  struct Setting {
    std::string input = {};
    bool in_is_terminal = false;
    bool out_is_terminal = false;
    bool err_is_terminal = false;
  };

  Result Run(std::vector<std::string> args, const Setting& setting) {
    std::istringstream in(setting.input);
    std::ostringstream out;
    std::ostringstream err;
    Console console{in, out, err, setting.in_is_terminal, setting.out_is_terminal, setting.err_is_terminal};
    args.insert(args.begin(), "--server=" + daemon_.address());
    Result result;
    result.exit_code = RunSpillway(args, console, active_);
    result.out = out.str();
    result.err = err.str();
    return result;
  }
  Result Run(const std::vector<std::string>& args) { return Run(args, {}); }

  FakeDaemon daemon_;
  ActiveCall active_;
};

}  // namespace spillway::client

#endif  // SPILLWAY_TESTS_CLIENT_SPILLWAY_FIXTURE_H_
