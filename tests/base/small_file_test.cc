#include "base/small_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace spillway {
namespace {

std::string TempPath(const std::string& name) {
  return testing::TempDir() + "/small_file_" + std::to_string(getpid()) + name;
}

TEST(SmallFile, IsReadWhole) {
  const std::string path = TempPath("whole");
  std::ofstream(path) << std::string(100'000, 'x');
  const auto text = ReadSmallFile(path);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, std::string(100'000, 'x'));
  unlink(path.c_str());
}

TEST(SmallFile, WhatIsNoSmallFileIsRefusedAtOnce) {
  const std::string pipe = TempPath("pipe"), large = TempPath("large");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::ofstream(large) << std::string(kSmallFileBytes + 1, 'x');
  for (const std::string& path :
       {pipe, large, std::string("/dev/zero"), std::string("/"), TempPath("missing")}) {
    EXPECT_FALSE(ReadSmallFile(path).ok()) << path;
  }
  unlink(pipe.c_str());
  unlink(large.c_str());
}

}  // namespace
}  // namespace spillway
