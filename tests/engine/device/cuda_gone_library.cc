// A library whose file is not found under the name that its users were linked with.
extern "C" int SpillwayGone() { return 1; }
