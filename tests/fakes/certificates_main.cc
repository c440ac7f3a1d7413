// Writes what a test in another language needs to be a client, or a bad one, of a daemon with mutual TLS.
//
// Usage: write-test-certificates FOLDER
#include <cstdio>
#include <fstream>
#include <string>

#include "tests/fakes/certificates.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: write-test-certificates FOLDER\n", stderr);
    return 2;
  }
  const std::string folder = std::string(argv[1]) + "/";
  const auto write = [&folder](const std::string& name, const spillway::fakes::PemPair& pair) {
    std::ofstream(folder + name + ".pem") << pair.certificate;
    std::ofstream(folder + name + ".key") << pair.key;
  };
  spillway::fakes::TestAuthority authority;
  spillway::fakes::TestAuthority stranger("stranger");
  std::ofstream(folder + "ca.pem") << authority.certificate();
  write("server", authority.Issue());
  write("renewed", authority.Issue());
  write("client", authority.Issue({.name = "client"}));
  write("expired", authority.Issue({.name = "expired", .ends_s = -60}));
  write("early", authority.Issue({.name = "early", .begins_s = 3600}));
  write("strange", stranger.Issue({.name = "strange"}));
  std::ofstream last(folder + "done");
  return last.good() ? 0 : 1;
}
