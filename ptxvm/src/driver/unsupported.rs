//! Functions that are exported, so that programs find them, and say that they are not supported.

use super::entry::{Opaque, Out, entries};
use super::log;
use super::status::Status;
use super::types::Uuid;
use std::fmt::Write;

macro_rules! unsupported {
    ($($reason:literal: $($name:ident)*;)*) => {
        $($(
            #[allow(non_snake_case, reason = "the name is the driver API's")]
            #[cfg_attr(feature = "driver", unsafe(no_mangle))]
            // In the C calling convention the caller takes its arguments back, so none need be declared.
            pub(crate) extern "C" fn $name() -> u32 {
                log::error(format_args!(concat!(stringify!($name), ": CUDA_ERROR_NOT_SUPPORTED: ", $reason)));
                Status::NotSupported as u32
            }
        )*)*

        fn list_unsupported(list: &mut Vec<(&'static str, usize)>) {
            $($(list.push((stringify!($name), $name as *const () as usize));)*)*
        }
    };
}

unsupported! {
    "textures, surfaces and arrays are not modelled":
        cuArray3DCreate_v2 cuArray3DGetDescriptor_v2 cuArrayCreate_v2 cuArrayDestroy cuArrayGetDescriptor_v2
        cuArrayGetMemoryRequirements cuArrayGetPlane cuArrayGetSparseProperties
        cuExternalMemoryGetMappedMipmappedArray cuGraphicsResourceGetMappedMipmappedArray
        cuGraphicsSubResourceGetMappedArray cuGraphicsVDPAURegisterOutputSurface
        cuGraphicsVDPAURegisterVideoSurface cuMemMapArrayAsync cuMemMapArrayAsync_ptsz cuMemcpyAtoA_v2
        cuMemcpyAtoA_v2_ptds cuMemcpyAtoD_v2 cuMemcpyAtoD_v2_ptds cuMemcpyAtoHAsync_v2 cuMemcpyAtoHAsync_v2_ptsz
        cuMemcpyAtoH_v2 cuMemcpyAtoH_v2_ptds cuMemcpyDtoA_v2 cuMemcpyDtoA_v2_ptds cuMemcpyHtoAAsync_v2
        cuMemcpyHtoAAsync_v2_ptsz cuMemcpyHtoA_v2 cuMemcpyHtoA_v2_ptds cuMipmappedArrayCreate
        cuMipmappedArrayDestroy cuMipmappedArrayGetLevel cuMipmappedArrayGetMemoryRequirements
        cuMipmappedArrayGetSparseProperties cuParamSetTexRef cuSurfObjectCreate cuSurfObjectDestroy
        cuSurfObjectGetResourceDesc cuSurfRefGetArray cuSurfRefSetArray cuTexObjectCreate cuTexObjectDestroy
        cuTexObjectGetResourceDesc cuTexObjectGetResourceViewDesc cuTexObjectGetTextureDesc cuTexRefCreate
        cuTexRefDestroy cuTexRefGetAddressMode cuTexRefGetAddress_v2 cuTexRefGetArray cuTexRefGetBorderColor
        cuTexRefGetFilterMode cuTexRefGetFlags cuTexRefGetFormat cuTexRefGetMaxAnisotropy
        cuTexRefGetMipmapFilterMode cuTexRefGetMipmapLevelBias cuTexRefGetMipmapLevelClamp
        cuTexRefGetMipmappedArray cuTexRefSetAddress2D_v3 cuTexRefSetAddressMode cuTexRefSetAddress_v2
        cuTexRefSetArray cuTexRefSetBorderColor cuTexRefSetFilterMode cuTexRefSetFlags cuTexRefSetFormat
        cuTexRefSetMaxAnisotropy cuTexRefSetMipmapFilterMode cuTexRefSetMipmapLevelBias
        cuTexRefSetMipmapLevelClamp cuTexRefSetMipmappedArray;
    "tensor maps (TMA) are not modelled":
        cuTensorMapEncodeIm2col cuTensorMapEncodeIm2colWide cuTensorMapEncodeTiled cuTensorMapReplaceAddress;
    "graphics and video interoperation is not modelled":
        cuDeviceGetNvSciSyncAttributes cuEGLStreamConsumerAcquireFrame cuEGLStreamConsumerConnect
        cuEGLStreamConsumerConnectWithFlags cuEGLStreamConsumerDisconnect cuEGLStreamConsumerReleaseFrame
        cuEGLStreamProducerConnect cuEGLStreamProducerDisconnect cuEGLStreamProducerPresentFrame
        cuEGLStreamProducerReturnFrame cuEventCreateFromEGLSync cuGLGetDevices_v2 cuGraphicsEGLRegisterImage
        cuGraphicsGLRegisterBuffer cuGraphicsGLRegisterImage cuGraphicsMapResources cuGraphicsMapResources_ptsz
        cuGraphicsResourceGetMappedEglFrame cuGraphicsResourceGetMappedPointer_v2
        cuGraphicsResourceSetMapFlags_v2 cuGraphicsUnmapResources cuGraphicsUnmapResources_ptsz
        cuGraphicsUnregisterResource cuVDPAUCtxCreate_v2 cuVDPAUGetDevice;
    "memory and semaphores of other drivers are not modelled":
        cuDestroyExternalMemory cuDestroyExternalSemaphore cuExternalMemoryGetMappedBuffer
        cuGraphAddExternalSemaphoresSignalNode cuGraphAddExternalSemaphoresWaitNode
        cuGraphExecExternalSemaphoresSignalNodeSetParams cuGraphExecExternalSemaphoresWaitNodeSetParams
        cuGraphExternalSemaphoresSignalNodeGetParams cuGraphExternalSemaphoresSignalNodeSetParams
        cuGraphExternalSemaphoresWaitNodeGetParams cuGraphExternalSemaphoresWaitNodeSetParams
        cuImportExternalMemory cuImportExternalSemaphore cuSignalExternalSemaphoresAsync
        cuSignalExternalSemaphoresAsync_ptsz cuWaitExternalSemaphoresAsync cuWaitExternalSemaphoresAsync_ptsz;
    "sharing between processes is not modelled":
        cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcGetMemHandle cuIpcOpenEventHandle cuIpcOpenMemHandle_v2
        cuMemExportToShareableHandle cuMemImportFromShareableHandle cuMemPoolExportPointer
        cuMemPoolImportFromShareableHandle cuMemPoolImportPointer;
    "green contexts and parts of a device are not modelled":
        cuCtxFromGreenCtx cuCtxGetDevResource cuDevResourceGenerateDesc cuDevSmResourceSplit
        cuDevSmResourceSplitByCount cuDeviceGetDevResource cuGreenCtxCreate cuGreenCtxDestroy
        cuGreenCtxGetDevResource cuGreenCtxGetId cuGreenCtxRecordEvent cuGreenCtxStreamCreate
        cuGreenCtxWaitEvent cuStreamGetDevResource;
    "multicast objects and logical endpoints are not modelled":
        cuDeviceGetCliqueCount cuDeviceGetCliqueInfo cuDeviceGetFabricClusterUuid cuLogicalEndpointAddDevice
        cuLogicalEndpointBindAddr cuLogicalEndpointBindMem cuLogicalEndpointCreate cuLogicalEndpointDestroy
        cuLogicalEndpointExport cuLogicalEndpointGetLimits cuLogicalEndpointIdRelease cuLogicalEndpointIdReserve
        cuLogicalEndpointImport cuLogicalEndpointQuery cuLogicalEndpointUnbind cuMulticastAddDevice
        cuMulticastBindAddr cuMulticastBindAddr_v2 cuMulticastBindMem cuMulticastBindMem_v2 cuMulticastCreate
        cuMulticastGetGranularity cuMulticastUnbind;
    "checkpoints and core dumps are not modelled":
        cuCheckpointProcessCheckpoint cuCheckpointProcessGetRestoreThreadId cuCheckpointProcessGetState
        cuCheckpointProcessLock cuCheckpointProcessRestore cuCheckpointProcessUnlock
        cuCoredumpDeregisterCompleteCallback cuCoredumpDeregisterStartCallback cuCoredumpGetAttribute
        cuCoredumpGetAttributeGlobal cuCoredumpRegisterCompleteCallback cuCoredumpRegisterStartCallback
        cuCoredumpSetAttribute cuCoredumpSetAttributeGlobal;
    "the error log of the driver is standard error here: set PTXVM_LOG":
        cuLogsCurrent cuLogsDumpToFile cuLogsDumpToMemory cuLogsRegisterCallback cuLogsUnregisterCallback;
    "batches of prefetches, decompressions and 3D copies are not modelled":
        cuMemBatchDecompressAsync cuMemBatchDecompressAsync_ptsz cuMemDiscardAndPrefetchBatchAsync
        cuMemDiscardAndPrefetchBatchAsync_ptsz cuMemDiscardBatchAsync cuMemDiscardBatchAsync_ptsz
        cuMemPrefetchBatchAsync cuMemPrefetchBatchAsync_ptsz cuMemcpy3DBatchAsync cuMemcpy3DBatchAsync_ptsz
        cuMemcpy3DBatchAsync_v2 cuMemcpy3DBatchAsync_v2_ptsz cuMemcpy3DWithAttributesAsync
        cuMemcpy3DWithAttributesAsync_ptsz cuMemcpyWithAttributesAsync cuMemcpyWithAttributesAsync_ptsz;
    "not modelled":
        cuDeviceRegisterAsyncNotification cuDeviceUnregisterAsyncNotification cuGraphAddNode_v3
        cuGraphConditionalHandleCreate cuGraphExecGetId cuGraphGetId cuGraphNodeGetContainingGraph
        cuGraphNodeGetLocalId cuGraphNodeGetParams cuGraphNodeGetToolsId cuGraphNodeSetParams_v2
        cuKernelGetParamCount cuLaunchHostFunc_v2 cuMemGetLocationInfo cuStreamBeginCaptureToCig
        cuStreamBeginRecaptureToGraph cuStreamEndCaptureToCig;
}

entries! { list_own:
    [always] fn cuGetExportTable(table: Out<*const Opaque>, id: super::entry::In<Uuid>) {
        table.set_if_given(std::ptr::null());
        let mut text = String::new();
        for byte in id.get("pExportTableId")?.bytes {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Err(Status::NotSupported.because(format!(
            "table {text}: the CUDA runtime library (libcudart) asks for private tables of the driver; programs that use \
             the runtime API (cudaMalloc, <<<>>>) need a driver that has them, ptxvm runs those that use the driver API"
        )))
    }
}

pub(super) fn list(all: &mut Vec<(&'static str, usize)>) {
    list_own(all);
    list_unsupported(all);
}
