// SPDX-License-Identifier: BSD-3-Clause
//
// Stands in for the CUDA libraries, so that the torch of the package index loads without them. That build needs 3.7 GB
// of libraries for GPUs before it runs anything on a CPU. Compiled once for each name in NAMES of peers.sh. It has what
// torch calls or points to while it loads; cudaGetDeviceCount says that there is no device, so nothing else is called.

int cudaGetDeviceCount(int* count) { return *count = 0, 100; }  // cudaErrorNoDevice
int cudaGetLastError(void) { return 0; }
const char* cudaGetErrorString(int error) { return (void)error, "these libraries have no GPU"; }
int cudaProfilerStart(void) { return 100; }
int cudaProfilerStop(void) { return 100; }

void** __cudaRegisterFatBinary(void* binary) {
  static void* handle;
  return (void)binary, &handle;
}
void __cudaRegisterFatBinaryEnd(void** handle) { (void)handle; }
void __cudaUnregisterFatBinary(void** handle) { (void)handle; }
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}

void nvshmem_init(void) {}
void nvshmem_selected_device_transport(void) {}
void nvshmemi_device_only_state(void) {}
void nvshmemi_get_device_state_ptrs(void) {}
