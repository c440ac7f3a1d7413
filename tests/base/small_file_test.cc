#include "base/small_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
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

TEST(SmallFile, IsReplacedWholeAndNothingIsLeftBesideIt) {
  const std::filesystem::path folder = TempPath("folder");
  std::filesystem::create_directory(folder);
  const std::string path = folder / "file", precious = folder / "precious";
  std::ofstream(precious) << "precious";
  std::filesystem::create_symlink(precious, path);
  for (const std::string text : {"one", "", "another"}) {
    ASSERT_TRUE(ReplaceSmallFile(path, text).ok());
    EXPECT_EQ(*ReadSmallFile(path), text);
  }
  EXPECT_EQ(*ReadSmallFile(precious), "precious") << "the link was replaced, not what it points to";
  EXPECT_FALSE(ReplaceSmallFile(folder / "missing" / "file", "x").ok());
  std::filesystem::create_directory(folder / "taken");
  EXPECT_FALSE(ReplaceSmallFile(folder / "taken", "x").ok()) << "a folder";
  const auto entries = std::filesystem::directory_iterator(folder);
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 3) << "the file, the precious one and the folder";
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace spillway
