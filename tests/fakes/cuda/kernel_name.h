// What a kernel is called, for the messages of the emulator.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_KERNEL_NAME_H_
#define SPILLWAY_TESTS_FAKES_CUDA_KERNEL_NAME_H_

#include <string>

namespace spillway::fakes::cuda {

// With its template's arguments and its parameters' types; "a kernel whose name was stripped" where the
// program's file does not tell.
std::string NameOfKernel(const void* kernel);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_KERNEL_NAME_H_
