// The CUDA kernels as the binding sees them: the functions of cpu/kernels.h on device memory, each enqueued on a stream
// of the current device. Nothing here needs CUDA's headers.
//
// Each returns a cudaError_t, 0 for success. None allocates or waits, so that they may run while a graph is captured.
#pragma once

#include "../common/types.h"

namespace affectron::cuda {

using Stream = void *; // a cudaStream_t

int glu(MutableRows out, Rows gate, Rows up, Shape shape, Dtype dtype, Act act, Stream stream);
int glu_backward(MutableRows grad_gate, MutableRows grad_up, Rows grad, Rows gate, Rows up, Shape shape, Plan plan,
                 float *sums, float *gradients, Dtype dtype, Act act, void *workspace, Stream stream);
int glu_stats(MutableRows out, Rows gate, Rows up, Shape shape, Plan plan, Stats stats, Dtype dtype, Act act,
              bool product, void *workspace, Stream stream);
int glu_steer(MutableRows out, Rows gate, Rows up, Shape shape, Programs programs, Dtype dtype, Act act, Stream stream);
int masked_mlp(MutableRows out, Rows x, MlpWeights weights, MlpShape shape, Programs programs, Dtype dtype, Act act,
               void *workspace, Stream stream);
int neuron_stats(Rows h, Rows gate, Shape shape, Plan plan, Stats stats, Dtype dtype, void *workspace, Stream stream);

// Bytes of `workspace`, aligned to 16: functions of the shapes alone.
int64_t workspace_size(Shape shape, int64_t num_tiles, int64_t num_segments, Dtype dtype); // of both statistics kernels
int64_t backward_workspace_size(int64_t neurons, int64_t num_tiles, int sums);             // of glu_backward's sums
int64_t mlp_workspace_size(MlpShape shape, Dtype dtype, bool by_neuron);                   // of masked_mlp

// Makes `device` current for this thread. The module has its own CUDA runtime, which does not see torch's choice of
// device; both select the same primary context.
int use_device(int device);

// The version of the CUDA toolkit that compiled the kernels, 13000 for 13.0.
int toolkit();

const char *error_name(int status);
const char *error_text(int status);

} // namespace affectron::cuda
