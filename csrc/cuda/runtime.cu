// Functions of the CUDA runtime that Python needs beside the kernels.
#include <cuda_runtime.h>

#include "kernels.h"

namespace affectron::cuda {

int use_device(int device) { return cudaSetDevice(device); }
int toolkit() { return CUDART_VERSION; }
const char *error_name(int status) { return cudaGetErrorName(cudaError_t(status)); }
const char *error_text(int status) { return cudaGetErrorString(cudaError_t(status)); }

} // namespace affectron::cuda
