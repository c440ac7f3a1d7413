// A module that needs a library which is not there.
extern "C" int SpillwayGone();
extern "C" int SpillwayNeedsIt() { return SpillwayGone(); }
