/*
 * A simulation of NVIDIA's optical flow library and of the part of the CUDA driver that is used with it: no GPU, no
 * optical flow. "Device" memory is the host's, a context is a number, and the "flow" of a pair is made from the
 * difference of the two frames' pixels, so that a test can tell which frame was where:
 *
 *     x = (red of referenceFrame - red of inputFrame) / 2 px,  y = (the same of blue) / 4 px
 *
 * at the first pixel of each grid cell. Every call is written to a log; what the real libraries forbid (no current
 * context, a buffer after its handle, hints that are not enabled ...) is refused here, too. Structs are those of the
 * public headers, written down a second time, for the C compiler to lay out.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a test sets and reads ---- */

static struct {
    uint32_t newest_api, grids[4], num_grids, width_min, height_min, width_max, height_max, extra_pitch;
    int num_gpus;
    char gpu_name[64], fail_call[64], fail_text[300];
    int fail_status, fail_after;
} set;

static struct {
    int contexts, pushed, handles, buffers;
} live;

static char call_log[1 << 20];

void stub_reset(void) {
    memset(&set, 0, sizeof set);
    memset(&live, 0, sizeof live);
    call_log[0] = 0;
    set.newest_api = 0x50;
    set.grids[0] = 1, set.grids[1] = 2, set.grids[2] = 4, set.num_grids = 3;
    set.width_min = 32, set.height_min = 16, set.width_max = set.height_max = 8192;
    set.num_gpus = 1;
    strcpy(set.gpu_name, "Simulated GPU");
}

void stub_set_newest_api(uint32_t version) { set.newest_api = version; }
void stub_set_gpu_name(const char *name) { strcpy(set.gpu_name, name); }
void stub_set_num_gpus(int number) { set.num_gpus = number; }
void stub_set_extra_pitch(uint32_t bytes) { set.extra_pitch = bytes; }
void stub_set_grids(const uint32_t *grids, uint32_t number) {
    memcpy(set.grids, grids, number * sizeof *grids);
    set.num_grids = number;
}
void stub_set_limits(uint32_t width_min, uint32_t height_min, uint32_t width_max, uint32_t height_max) {
    set.width_min = width_min, set.height_min = height_min, set.width_max = width_max, set.height_max = height_max;
}
/* The call fails with `status` after it has worked `after` times, and ever after. */
void stub_fail(const char *call, int status, int after, const char *text) {
    strcpy(set.fail_call, call);
    strcpy(set.fail_text, text);
    set.fail_status = status, set.fail_after = after;
}
const char *stub_log(void) { return call_log; }
void stub_live(int out[4]) { memcpy(out, &live, sizeof live); }

static void note(const char *format, ...) {
    size_t used = strlen(call_log);
    va_list args;
    va_start(args, format);
    vsnprintf(call_log + used, sizeof call_log - used, format, args);
    va_end(args);
}

static int fails(const char *call) { return !strcmp(set.fail_call, call) && set.fail_after-- <= 0; }
#define MAY_FAIL(call) if (fails(call)) return note("%s failed\n", call), set.fail_status

/* ---- the CUDA driver ---- */

enum { INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };
typedef struct {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void *srcHost;
    unsigned long long srcDevice;
    void *srcArray;
    size_t srcPitch, dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    unsigned long long dstDevice;
    void *dstArray;
    size_t dstPitch, WidthInBytes, Height;
} CUDA_MEMCPY2D;

int cuInit(unsigned flags) {
    MAY_FAIL("cuInit");
    note("cuInit %u\n", flags);
    return set.num_gpus ? 0 : NO_DEVICE;
}

int cuDeviceGet(int *device, int ordinal) {
    MAY_FAIL("cuDeviceGet");
    *device = ordinal;
    return ordinal < set.num_gpus ? 0 : INVALID_DEVICE;
}

int cuDeviceGetCount(int *count) {
    MAY_FAIL("cuDeviceGetCount");
    *count = 1;
    return 0;
}

int cuDeviceGetName(char *name, int len, int device) {
    (void)device;
    snprintf(name, len, "%s", set.gpu_name);
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    MAY_FAIL("cuDevicePrimaryCtxRetain");
    live.contexts++;
    *context = (void *)(uintptr_t)(0x700000001000 + device); /* does not fit in four bytes, as real ones */
    note("retain %d\n", device);
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    MAY_FAIL("cuDevicePrimaryCtxRelease_v2");
    live.contexts--;
    note(live.handles || live.pushed ? "release while in use\n" : "release %d\n", device);
    return 0;
}

int cuCtxPushCurrent_v2(void *context) {
    MAY_FAIL("cuCtxPushCurrent_v2");
    if (!live.contexts || (uintptr_t)context >> 12 != 0x700000001000 >> 12) return INVALID_CONTEXT;
    live.pushed++;
    return 0;
}

int cuCtxPopCurrent_v2(void **context) {
    MAY_FAIL("cuCtxPopCurrent_v2");
    if (!live.pushed) return INVALID_CONTEXT;
    live.pushed--;
    *context = NULL;
    return 0;
}

int cuCtxSynchronize(void) {
    MAY_FAIL("cuCtxSynchronize");
    note("synchronize\n");
    return live.pushed ? 0 : INVALID_CONTEXT;
}

int cuMemcpy2D_v2(const CUDA_MEMCPY2D *copy) {
    MAY_FAIL("cuMemcpy2D_v2");
    if (!live.pushed) return INVALID_CONTEXT;
    if (copy->WidthInBytes > copy->srcPitch || copy->WidthInBytes > copy->dstPitch) return INVALID_VALUE;
    const char *from = copy->srcMemoryType == 1 ? copy->srcHost : (const char *)(uintptr_t)copy->srcDevice;
    char *to = copy->dstMemoryType == 1 ? copy->dstHost : (char *)(uintptr_t)copy->dstDevice;
    for (size_t y = 0; y < copy->Height; y++)
        memcpy(to + y * copy->dstPitch, from + y * copy->srcPitch, copy->WidthInBytes);
    note("copy %d->%d %zux%zu\n", copy->srcMemoryType, copy->dstMemoryType, copy->WidthInBytes, copy->Height);
    return 0;
}

int cuGetErrorName(int status, const char **name) {
    *name = status == INVALID_VALUE     ? "CUDA_ERROR_INVALID_VALUE"
            : status == NO_DEVICE       ? "CUDA_ERROR_NO_DEVICE"
            : status == INVALID_DEVICE  ? "CUDA_ERROR_INVALID_DEVICE"
            : status == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
                                        : NULL;
    return *name ? 0 : INVALID_VALUE;
}

/* ---- NVIDIA Optical Flow ---- */

enum { SUCCESS, INVALID_PTR = 4, INVALID_PARAM, INVALID_CALL, INVALID_VERSION, NOT_INITIALIZED = 9 };
enum { ABGR8 = 3, SHORT2 = 5 };
typedef enum { FALSE_, TRUE_ } Bool;
typedef enum { ENUM_ } Enum;

typedef struct {
    uint32_t width, height;
    Enum outGridSize, hintGridSize, mode, perfLevel;
    Bool enableExternalHints, enableOutputCost;
    void *hPrivData;
    Enum disparityRange;
    Bool enableRoi;
} NV_OF_INIT_PARAMS_20;

typedef struct {
    uint32_t width, height;
    Enum outGridSize, hintGridSize, mode, perfLevel;
    Bool enableExternalHints, enableOutputCost;
    void *hPrivData;
    Enum disparityRange;
    Bool enableRoi;
    Enum predDirection;
    Bool enableGlobalFlow;
    Enum inputBufferFormat;
} NV_OF_INIT_PARAMS_50;

typedef struct {
    uint32_t width, height;
    Enum bufferUsage, bufferFormat;
} NV_OF_BUFFER_DESCRIPTOR;

typedef struct {
    struct {
        uint32_t strideXInBytes, strideYInBytes;
    } strideInfo[3];
    uint32_t numPlanes;
} NV_OF_CUDA_BUFFER_STRIDE_INFO;

typedef struct {
    void *inputFrame, *referenceFrame, *externalHints;
    Bool disableTemporalHints;
    uint32_t padding;
    void *hPrivData;
    uint32_t padding2, numRois;
    void *roiData;
} NV_OF_EXECUTE_INPUT_PARAMS;

typedef struct {
    void *outputBuffer, *outputCostBuffer, *hPrivData;
} NV_OF_EXECUTE_OUTPUT_PARAMS_20;

typedef struct {
    void *outputBuffer, *outputCostBuffer, *hPrivData, *bwdOutputBuffer, *bwdOutputCostBuffer, *globalFlowBuffer;
} NV_OF_EXECUTE_OUTPUT_PARAMS_50;

typedef struct {
    int id, num_buffers;
    uint32_t api;
    NV_OF_INIT_PARAMS_50 init;
    const char *error;
} Handle;

typedef struct {
    int id;
    Handle *owner;
    NV_OF_BUFFER_DESCRIPTOR what;
    size_t pitch;
    uint8_t *memory;
} Buffer;

static uint32_t chosen_api;
static int next_id;

#define NVOF(call) do { MAY_FAIL(call); if (!live.pushed) return INVALID_CALL; } while (0)
#define REFUSE_UNLESS(handle, condition) \
    if (!(condition)) return ((Handle *)(handle))->error = "not so: " #condition, INVALID_PARAM

static int create(void *context, void **out) {
    NVOF("nvCreateOpticalFlowCuda");
    if (!context) return INVALID_PTR;
    Handle *handle = calloc(1, sizeof *handle);
    handle->id = next_id++, handle->api = chosen_api;
    live.handles++;
    note("create %d\n", handle->id);
    *out = handle;
    return SUCCESS;
}

static int set_streams(void *handle, void *in, void *out) {
    NVOF("nvOFSetIOCudaStreams");
    REFUSE_UNLESS(handle, !in && !out);
    note("streams default\n");
    return SUCCESS;
}

static int get_caps(void *handle, int capability, uint32_t *values, uint32_t *count) {
    NVOF("nvOFGetCaps");
    const uint32_t one[] = {set.width_min, set.height_min, set.width_max, set.height_max};
    REFUSE_UNLESS(handle, capability == 0 || (capability >= 4 && capability <= 7));
    if (!values) return *count = capability ? 1 : set.num_grids, SUCCESS;
    if (capability) values[0] = one[capability - 4];
    else memcpy(values, set.grids, set.num_grids * sizeof *values);
    return SUCCESS;
}

static int init(void *of, const void *params) {
    Handle *handle = of;
    NVOF("nvOFInit");
    int is_50 = handle->api == 0x50;
    memcpy(&handle->init, params, is_50 ? sizeof(NV_OF_INIT_PARAMS_50) : sizeof(NV_OF_INIT_PARAMS_20));
    NV_OF_INIT_PARAMS_50 *p = &handle->init;
    REFUSE_UNLESS(of, p->mode == 1 && (p->perfLevel == 5 || p->perfLevel == 10 || p->perfLevel == 20));
    REFUSE_UNLESS(of, !p->hintGridSize && !p->enableExternalHints && !p->enableOutputCost && !p->enableRoi);
    REFUSE_UNLESS(of, !p->hPrivData && !p->disparityRange && !p->predDirection && !p->enableGlobalFlow);
    REFUSE_UNLESS(of, (int)p->inputBufferFormat == (is_50 ? ABGR8 : 0));
    note("init %d api %x %ux%u grid %u level %u\n", handle->id, handle->api, p->width, p->height, p->outGridSize,
         p->perfLevel);
    return SUCCESS;
}

static int create_buffer(void *of, const NV_OF_BUFFER_DESCRIPTOR *what, int type, void **out) {
    Handle *handle = of;
    NVOF("nvOFCreateGPUBufferCuda");
    uint32_t grid = handle->init.outGridSize, is_input = what->bufferUsage == 1;
    if (!grid) return NOT_INITIALIZED;
    REFUSE_UNLESS(of, type == 2 && (is_input || what->bufferUsage == 2));
    REFUSE_UNLESS(of, (int)what->bufferFormat == (is_input ? ABGR8 : SHORT2));
    uint32_t cell = is_input ? 1 : grid;
    REFUSE_UNLESS(of, what->width == (handle->init.width + cell - 1) / cell);
    REFUSE_UNLESS(of, what->height == (handle->init.height + cell - 1) / cell);
    Buffer *buffer = calloc(1, sizeof *buffer);
    buffer->id = next_id++, buffer->owner = handle, buffer->what = *what;
    buffer->pitch = 4 * what->width + set.extra_pitch; /* a pixel and a vector both take four bytes */
    buffer->memory = malloc(buffer->pitch * what->height);
    memset(buffer->memory, 0xcd, buffer->pitch * what->height);
    handle->num_buffers++, live.buffers++;
    note("buffer %d %s %ux%u\n", buffer->id, is_input ? "input" : "output", what->width, what->height);
    *out = buffer;
    return SUCCESS;
}

static void *get_array(void *buffer) { return (void)buffer, NULL; }
static unsigned long long get_pointer(void *buffer) { return (uintptr_t)((Buffer *)buffer)->memory; }

static int get_stride(void *buffer, NV_OF_CUDA_BUFFER_STRIDE_INFO *stride) {
    NVOF("nvOFGPUBufferGetStrideInfo");
    memset(stride, 0, sizeof *stride);
    stride->strideInfo[0].strideXInBytes = ((Buffer *)buffer)->pitch;
    stride->strideInfo[0].strideYInBytes = ((Buffer *)buffer)->what.height;
    stride->numPlanes = 1;
    return SUCCESS;
}

static int execute(void *of, const NV_OF_EXECUTE_INPUT_PARAMS *in, void *out) {
    Handle *handle = of;
    NVOF("nvOFExecute");
    NV_OF_EXECUTE_OUTPUT_PARAMS_50 result = {0};
    size_t size_20 = sizeof(NV_OF_EXECUTE_OUTPUT_PARAMS_20);
    memcpy(&result, out, handle->api == 0x50 ? sizeof result : size_20);
    REFUSE_UNLESS(of, !in->externalHints && !in->padding && !in->hPrivData && !in->padding2 && !in->numRois);
    REFUSE_UNLESS(of, !in->roiData && !result.outputCostBuffer && !result.hPrivData && !result.bwdOutputBuffer);
    REFUSE_UNLESS(of, !result.bwdOutputCostBuffer && !result.globalFlowBuffer);
    Buffer *from = in->inputFrame, *to = in->referenceFrame, *flow = result.outputBuffer;
    REFUSE_UNLESS(of, from->owner == handle && to->owner == handle && flow->owner == handle && from != to);
    for (uint32_t y = 0; y < flow->what.height; y++)
        for (uint32_t x = 0; x < flow->what.width; x++) {
            size_t grid = handle->init.outGridSize;
            const uint8_t *a = from->memory + y * grid * from->pitch + x * grid * 4;
            const uint8_t *b = to->memory + y * grid * to->pitch + x * grid * 4;
            int16_t *vector = (int16_t *)(flow->memory + y * flow->pitch) + 2 * x;
            REFUSE_UNLESS(of, a[3] == 255 && b[3] == 255);
            vector[0] = 16 * (b[2] - a[2]), vector[1] = 8 * (b[0] - a[0]);
        }
    note("execute %d: %d to %d, hints %s\n", handle->id, from->id, to->id, in->disableTemporalHints ? "off" : "on");
    return SUCCESS;
}

static int destroy_buffer(void *gone) {
    Buffer *buffer = gone;
    NVOF("nvOFDestroyGPUBufferCuda");
    note("destroy buffer %d\n", buffer->id);
    buffer->owner->num_buffers--, live.buffers--;
    free(buffer->memory);
    free(buffer);
    return SUCCESS;
}

static int destroy(void *gone) {
    Handle *handle = gone;
    NVOF("nvOFDestroy");
    note(handle->num_buffers ? "destroy %d before its buffers\n" : "destroy %d\n", handle->id);
    live.handles--;
    free(handle);
    return SUCCESS;
}

static int last_error(void *handle, char text[], uint32_t *size) {
    const char *error = ((Handle *)handle)->error;
    if (*size < 80) return INVALID_PARAM;
    *size = snprintf(text, *size, "%s", *set.fail_text ? set.fail_text : error ? error : "");
    return SUCCESS;
}

typedef struct {
    int (*nvCreateOpticalFlowCuda)(void *, void **);
    int (*nvOFInit)(void *, const void *);
    int (*nvOFCreateGPUBufferCuda)(void *, const NV_OF_BUFFER_DESCRIPTOR *, int, void **);
    void *(*nvOFGPUBufferGetCUarray)(void *);
    unsigned long long (*nvOFGPUBufferGetCUdeviceptr)(void *);
    int (*nvOFGPUBufferGetStrideInfo)(void *, NV_OF_CUDA_BUFFER_STRIDE_INFO *);
    int (*nvOFSetIOCudaStreams)(void *, void *, void *);
    int (*nvOFExecute)(void *, const NV_OF_EXECUTE_INPUT_PARAMS *, void *);
    int (*nvOFDestroyGPUBufferCuda)(void *);
    int (*nvOFDestroy)(void *);
    int (*nvOFGetLastError)(void *, char[], uint32_t *);
    int (*nvOFGetCaps)(void *, int, uint32_t *, uint32_t *);
} NV_OF_CUDA_API_FUNCTION_LIST;

int NvOFAPICreateInstanceCuda(uint32_t version, NV_OF_CUDA_API_FUNCTION_LIST *list) {
    MAY_FAIL("NvOFAPICreateInstanceCuda");
    note("instance %x\n", version);
    if (version > set.newest_api) return INVALID_VERSION;
    chosen_api = version, next_id = 0;
    *list = (NV_OF_CUDA_API_FUNCTION_LIST){
        create,      init,    create_buffer,  get_array, get_pointer, get_stride,
        set_streams, execute, destroy_buffer, destroy,   last_error,  get_caps,
    };
    return SUCCESS;
}

/* ---- how the C compiler lays the structs out: "struct field offset" lines, "struct sizeof size" ---- */

static char layouts[8192];
#define SIZE(type) used += sprintf(layouts + used, #type " sizeof %zu\n", sizeof(type))
#define AT(type, field) used += sprintf(layouts + used, #type " " #field " %zu\n", offsetof(type, field))
#define AT4(type, a, b, c, d) AT(type, a), AT(type, b), AT(type, c), AT(type, d)

const char *stub_layouts(void) {
    int used = 0;
    SIZE(NV_OF_INIT_PARAMS_20);
    AT4(NV_OF_INIT_PARAMS_20, width, height, outGridSize, hintGridSize);
    AT4(NV_OF_INIT_PARAMS_20, mode, perfLevel, enableExternalHints, enableOutputCost);
    AT(NV_OF_INIT_PARAMS_20, hPrivData), AT(NV_OF_INIT_PARAMS_20, disparityRange), AT(NV_OF_INIT_PARAMS_20, enableRoi);
    SIZE(NV_OF_INIT_PARAMS_50);
    AT4(NV_OF_INIT_PARAMS_50, width, height, outGridSize, hintGridSize);
    AT4(NV_OF_INIT_PARAMS_50, mode, perfLevel, enableExternalHints, enableOutputCost);
    AT4(NV_OF_INIT_PARAMS_50, hPrivData, disparityRange, enableRoi, predDirection);
    AT(NV_OF_INIT_PARAMS_50, enableGlobalFlow), AT(NV_OF_INIT_PARAMS_50, inputBufferFormat);
    SIZE(NV_OF_BUFFER_DESCRIPTOR);
    AT4(NV_OF_BUFFER_DESCRIPTOR, width, height, bufferUsage, bufferFormat);
    SIZE(NV_OF_CUDA_BUFFER_STRIDE_INFO);
    AT(NV_OF_CUDA_BUFFER_STRIDE_INFO, strideInfo[0].strideXInBytes);
    AT(NV_OF_CUDA_BUFFER_STRIDE_INFO, numPlanes);
    SIZE(NV_OF_EXECUTE_INPUT_PARAMS);
    AT4(NV_OF_EXECUTE_INPUT_PARAMS, inputFrame, referenceFrame, externalHints, disableTemporalHints);
    AT4(NV_OF_EXECUTE_INPUT_PARAMS, padding, hPrivData, padding2, numRois);
    AT(NV_OF_EXECUTE_INPUT_PARAMS, roiData);
    SIZE(NV_OF_EXECUTE_OUTPUT_PARAMS_20);
    AT(NV_OF_EXECUTE_OUTPUT_PARAMS_20, outputBuffer), AT(NV_OF_EXECUTE_OUTPUT_PARAMS_20, outputCostBuffer);
    AT(NV_OF_EXECUTE_OUTPUT_PARAMS_20, hPrivData);
    SIZE(NV_OF_EXECUTE_OUTPUT_PARAMS_50);
    AT4(NV_OF_EXECUTE_OUTPUT_PARAMS_50, outputBuffer, outputCostBuffer, hPrivData, bwdOutputBuffer);
    AT(NV_OF_EXECUTE_OUTPUT_PARAMS_50, bwdOutputCostBuffer), AT(NV_OF_EXECUTE_OUTPUT_PARAMS_50, globalFlowBuffer);
    SIZE(NV_OF_CUDA_API_FUNCTION_LIST);
    AT4(NV_OF_CUDA_API_FUNCTION_LIST, nvCreateOpticalFlowCuda, nvOFInit, nvOFCreateGPUBufferCuda,
        nvOFGPUBufferGetCUarray);
    AT4(NV_OF_CUDA_API_FUNCTION_LIST, nvOFGPUBufferGetCUdeviceptr, nvOFGPUBufferGetStrideInfo, nvOFSetIOCudaStreams,
        nvOFExecute);
    AT4(NV_OF_CUDA_API_FUNCTION_LIST, nvOFDestroyGPUBufferCuda, nvOFDestroy, nvOFGetLastError, nvOFGetCaps);
    SIZE(CUDA_MEMCPY2D);
    AT4(CUDA_MEMCPY2D, srcXInBytes, srcY, srcMemoryType, srcHost);
    AT4(CUDA_MEMCPY2D, srcDevice, srcArray, srcPitch, dstXInBytes);
    AT4(CUDA_MEMCPY2D, dstY, dstMemoryType, dstHost, dstDevice);
    AT4(CUDA_MEMCPY2D, dstArray, dstPitch, WidthInBytes, Height);
    return layouts;
}
