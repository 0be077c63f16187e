//! Initialisation, versions, devices and their attributes.

use super::entry::{In, Out, entries, set_initialised, write_text};
use super::state::card;
use super::status::{Outcome, Status};
use super::types::{DeviceProperties, Text, Uuid};
use crate::card::Card;
use crate::settings::settings;
use std::ffi::c_char;

entries! { list:
    [always] fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuInit takes no flags"));
        }
        let settings = settings();
        if let Some(problem) = settings.problems.first() {
            return Err(Status::SystemNotReady.because(problem.to_string()));
        }
        if settings.devices.is_empty() {
            return Err(Status::NoDevice.because("CUDA_VISIBLE_DEVICES hides all cards"));
        }
        if settings.checked {
            // The checkers must see memory from the first allocation on.
            crate::monitor::is_checked();
        }
        set_initialised();
        Ok(())
    }

    [always] fn cuDriverGetVersion(version: Out<i32>) {
        version.set("driverVersion", settings().driver_version.cast_signed())
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        card(ordinal)?;
        device.set("device", ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.set("count", i32::try_from(settings().devices.len()).unwrap_or(i32::MAX))
    }

    fn cuDeviceGetName(name: Out<c_char>, len: i32, dev: i32) {
        name.check("name")?;
        let (_, card) = card(dev)?;
        let capacity = usize::try_from(len).ok().filter(|capacity| *capacity > 0);
        let capacity = capacity.ok_or_else(|| Status::InvalidValue.because(format!("a length of {len}")))?;
        write_text(name, capacity, card.name).map(|_| ())
    }

    fn cuDeviceGetUuid(uuid: Out<Uuid>, dev: i32) { uuid_of(uuid, dev) }

    fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, dev: i32) { uuid_of(uuid, dev) }

    fn cuDeviceGetLuid(luid: Out<c_char>, node_mask: Out<u32>, dev: i32) {
        let _ = (luid, node_mask);
        card(dev)?;
        Err(Status::NotSupported.because("LUIDs exist on Windows only"))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, dev: i32) {
        let (_, card) = card(dev)?;
        bytes.set("bytes", usize::try_from(card.memory_bytes).unwrap_or(usize::MAX))
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, dev: i32) {
        let (device, card) = card(dev)?;
        let found = card.attribute(attribute, device);
        let found = found.ok_or_else(|| {
            Status::InvalidValue.because(format!("CUDA 13.0 has no CUdevice_attribute {attribute}"))
        })?;
        value.set("pi", found)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, dev: i32) {
        let (_, card) = card(dev)?;
        major.set("major", card.compute.0.cast_signed())?;
        minor.set("minor", card.compute.1.cast_signed())
    }

    fn cuDeviceGetProperties(properties: Out<DeviceProperties>, dev: i32) {
        let (_, card) = card(dev)?;
        properties.set("prop", DeviceProperties {
            max_threads_per_block: Card::MAX_BLOCK_THREADS.cast_signed(),
            max_threads_dim: Card::MAX_BLOCK.map(u32::cast_signed),
            max_grid_size: Card::MAX_GRID.map(u32::cast_signed),
            shared_per_block: Card::SHARED_PER_BLOCK.cast_signed(),
            total_constant: 65_536,
            warp: Card::WARP.cast_signed(),
            pitch: i32::MAX,
            registers_per_block: Card::REGISTERS.cast_signed(),
            clock_khz: card.clock_khz.cast_signed(),
            texture_align: 512,
        })
    }

    fn cuDeviceGetPCIBusId(text: Out<c_char>, len: i32, dev: i32) {
        text.check("pciBusId")?;
        let (device, _) = card(dev)?;
        let id = pci_bus_id(device);
        let capacity = usize::try_from(len).unwrap_or(0);
        if capacity <= id.len() {
            return Err(Status::InvalidValue.because(format!("{len} bytes do not hold '{id}' and its NUL")));
        }
        write_text(text, capacity, &id).map(|_| ())
    }

    fn cuDeviceGetByPCIBusId(dev: Out<i32>, text: Text) {
        let text = text.text("pciBusId")?.to_lowercase();
        let mut devices = 0..settings().devices.len();
        let found = devices.find(|device| {
            let id = pci_bus_id(u32::try_from(*device).unwrap_or(u32::MAX));
            // Domain and function may be left out.
            [&id[..], &id[..10], &id[5..], &id[5..10]].contains(&text.as_str())
        });
        match found.map(i32::try_from) {
            Some(Ok(device)) => dev.set("dev", device),
            _ => Err(Status::InvalidDevice.because(format!("no device is at '{text}'"))),
        }
    }

    fn cuDeviceGetExecAffinitySupport(value: Out<i32>, kind: u32, dev: i32) {
        card(dev)?;
        if kind != 0 {
            return Err(Status::InvalidValue.because(format!("there is no CUexecAffinityType {kind}")));
        }
        value.set("pi", 0)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, dev: i32, peer: i32) {
        let (device, _) = card(dev)?;
        let (peer, _) = card(peer)?;
        can.set("canAccessPeer", i32::from(device != peer))
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, attribute: u32, from: i32, to: i32) {
        let (from, _) = card(from)?;
        let (to, _) = card(to)?;
        if from == to {
            return Err(Status::InvalidDevice.because("a device is no peer of itself"));
        }
        // Performance rank, access, native atomics, access to arrays, only partial atomics.
        match attribute {
            1 | 4 | 5 => value.set("value", 0),
            2 | 3 => value.set("value", 1),
            _ => Err(Status::InvalidValue.because(format!("there is no CUdevice_P2PAttribute {attribute}"))),
        }
    }

    fn cuDeviceGetHostAtomicCapabilities(capabilities: Out<u32>, operations: In<u32>, count: u32, dev: i32) {
        card(dev)?;
        no_atomics(capabilities, operations, count)
    }

    fn cuDeviceGetP2PAtomicCapabilities(capabilities: Out<u32>, operations: In<u32>, count: u32, from: i32, to: i32) {
        card(from)?;
        card(to)?;
        no_atomics(capabilities, operations, count)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<usize>, format: u32, channels: u32, dev: i32) {
        let _ = format;
        card(dev)?;
        if ![1, 2, 4].contains(&channels) {
            return Err(Status::InvalidValue.because(format!("{channels} channels; 1, 2 or 4 are possible")));
        }
        width.set("maxWidthInElements", 268_435_456)
    }

    fn cuProfilerInitialize(config: Text, output: Text, mode: u32) {
        let _ = (config, output, mode);
        Err(Status::NotSupported.because("cuProfilerInitialize left CUDA with 12.0; set PTXVM_MODE=profile"))
    }

    fn cuProfilerStart() { super::state::lock().usable().map(|_| ()) }

    fn cuProfilerStop() { super::state::lock().usable().map(|_| ()) }

    fn cuFlushGPUDirectRDMAWrites(target: u32, scope: u32) {
        let _ = (target, scope);
        super::state::lock().usable().map(|_| ())
    }
}

fn uuid_of(uuid: Out<Uuid>, device: i32) -> Outcome {
    let (device, card) = card(device)?;
    // The same at every run, different for every device.
    let mut bytes = *b"ptxvm\0\0\0\0\0\0\0\0\0\0\0";
    bytes[8..12].copy_from_slice(&card.pci_id.to_be_bytes());
    bytes[12..].copy_from_slice(&device.to_be_bytes());
    uuid.set("uuid", Uuid { bytes })
}

fn pci_bus_id(device: u32) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}

fn no_atomics(capabilities: Out<u32>, operations: In<u32>, count: u32) -> Outcome {
    for (index, operation) in operations.list("operations", count as usize)?.into_iter().enumerate() {
        if operation > 12 {
            return Err(Status::InvalidValue.because(format!("there is no CUatomicOperation {operation}")));
        }
        capabilities.set_at("capabilities", index, 0)?;
    }
    Ok(())
}
