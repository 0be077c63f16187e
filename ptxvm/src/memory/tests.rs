use super::*;
use std::thread;

fn memory() -> Memory {
    Memory::new(256 << 20)
}

fn device(memory: &Memory, bytes: u64) -> u64 {
    memory.allocate(bytes, 1, AllocationKind::Device, 0, "cuMemAlloc, test".to_owned()).unwrap()
}

#[test]
fn allocations_are_aligned_and_apart() {
    let memory = memory();
    let bases: Vec<u64> = (0..100).map(|k| device(&memory, 1 + k * 37)).collect();
    for (k, base) in bases.iter().enumerate() {
        assert_eq!(base % 256, 0);
        let end = base + 1 + k as u64 * 37;
        assert!(bases.iter().all(|other| other == base || *other >= end + 512 || *other < *base), "{k}");
        assert_eq!(memory.find(end - 1).unwrap().base, *base);
        assert_eq!(memory.find(end), None);
        assert_eq!(memory.find(base - 1), None);
    }
    let wide = memory.allocate(10, 1 << 16, AllocationKind::Pinned, 0, String::new()).unwrap();
    assert_eq!(wide % (1 << 16), 0);
    assert_eq!(memory.allocations().len(), 101);
}

#[test]
fn free_tells_double_free_from_a_middle_and_from_a_stranger() {
    let memory = memory();
    let base = device(&memory, 64);
    assert!(matches!(memory.free(base + 8), Err(MemoryError::NotABase { allocation, .. }) if allocation.base == base));
    assert_eq!(memory.free(base), Ok(()));
    assert!(matches!(memory.free(base), Err(MemoryError::AlreadyFreed { .. })));
    assert!(matches!(memory.free(0x10), Err(MemoryError::NotAllocated { address: 0x10 })));
    assert_eq!(memory.find(base), None);
}

#[test]
fn freed_addresses_are_not_used_again_before_many_others() {
    let memory = memory();
    let first = device(&memory, 4096);
    memory.free(first).unwrap();
    for _ in 0..1000 {
        let next = device(&memory, 4096);
        assert_ne!(next, first);
        memory.free(next).unwrap();
    }
    assert!(matches!(memory.free(first), Err(MemoryError::AlreadyFreed { .. })));
}

#[test]
fn freed_ranges_come_back_when_the_reservation_is_used_up() {
    let memory = memory();
    for _ in 0..50 {
        let base = device(&memory, 100 << 20);
        memory.free(base).unwrap();
    }
    let kept = device(&memory, 200 << 20);
    assert_eq!(
        memory.allocate(200 << 20, 1, AllocationKind::Device, 0, String::new()),
        Err(MemoryError::OutOfMemory { bytes: 200 << 20 })
    );
    assert!(memory.allocate(u64::MAX - 5, 1, AllocationKind::Device, 0, String::new()).is_err());
    memory.free(kept).unwrap();
}

#[test]
fn copies_and_fills_stay_within_one_allocation() {
    let memory = memory();
    let (a, b) = (device(&memory, 100), device(&memory, 100));
    let mut host = [0u8; 100];
    // SAFETY: `host` is valid for what is copied from and to it.
    unsafe {
        memory.fill(a, &[1, 2, 3, 4], 25).unwrap();
        memory.copy(b, a, 100).unwrap();
        memory.copy(host.as_mut_ptr() as u64, b + 2, 98).unwrap();
        assert_eq!(host[..4], [3, 4, 1, 2]);
        memory.fill(b, &[7], 100).unwrap();
        memory.copy(host.as_mut_ptr() as u64, b, 100).unwrap();
        assert_eq!(host, [7; 100]);
        assert!(matches!(memory.copy(a, b, 101), Err(MemoryError::OutOfBounds { action: "read", .. })));
        assert!(matches!(memory.fill(a + 4, &[0, 0], 50), Err(MemoryError::OutOfBounds { action: "write", .. })));
        assert!(matches!(memory.fill(a + 100, &[0], 1), Err(MemoryError::OutOfBounds { .. })));
        assert!(matches!(memory.fill(a + 1, &[0, 1], 1), Err(MemoryError::BadFill { .. })));
        assert!(matches!(memory.fill(a, &[0, 1, 2], 1), Err(MemoryError::BadFill { .. })));
        assert!(matches!(memory.copy(0, a, 1), Err(MemoryError::Null { action: "write", .. })));
        memory.free(b).unwrap();
        assert!(matches!(memory.copy(a, b, 1), Err(MemoryError::UseAfterFree { action: "read", .. })));
        memory.copy(a, b, 0).unwrap();
    }
}

#[test]
fn an_error_names_the_nearest_allocation() {
    let memory = memory();
    let a = device(&memory, 1024);
    // SAFETY: nothing is written: the range is refused.
    let error = unsafe { memory.fill(a + 1040, &[0], 1) }.unwrap_err().to_string();
    assert!(error.contains("16 bytes after the end of allocation #1 of 1024 bytes"), "{error}");
    assert!(error.contains("cuMemAlloc, test"), "{error}");
}

#[test]
fn host_memory_is_found_once_registered_and_only_once() {
    let memory = memory();
    let mut host = vec![0u8; 1000];
    let at = host.as_mut_ptr() as u64;
    memory.register_host(at, 1000, "here".to_owned()).unwrap();
    assert_eq!(memory.find(at + 999).unwrap().kind, AllocationKind::HostRegistered);
    assert!(matches!(
        memory.register_host(at + 500, 1000, String::new()),
        Err(MemoryError::AlreadyRegistered { allocation, .. }) if allocation.serial_label == "here"
    ));
    memory.free(at).unwrap();
    assert_eq!(memory.find(at), None);
    memory.register_host(at, 1000, String::new()).unwrap();
}

#[test]
fn other_devices_need_peer_access_except_to_host_memory() {
    let memory = memory();
    let ours = device(&memory, 16);
    let pinned = memory.allocate(16, 1, AllocationKind::Pinned, 0, String::new()).unwrap();
    assert!(memory.range(ours, 0).is_some());
    assert!(memory.range(ours, 1).is_none());
    assert!(memory.range(pinned, 1).is_some());
    memory.set_peer_access(1, 0, true);
    assert!(memory.range(ours, 1).is_some());
    memory.set_peer_access(1, 0, false);
    assert!(memory.range(ours, 1).is_none());
}

#[test]
fn constants_are_readable_and_not_writable() {
    let memory = memory();
    let base = memory.allocate(16, 1, AllocationKind::ModuleConst, 0, String::new()).unwrap();
    let range = memory.range(base, 0).unwrap();
    assert_eq!((range.low, range.high, range.writable), (base, base + 16, base));
}

#[test]
fn a_cache_forgets_what_has_been_freed() {
    let memory = Memory::global();
    let base = device(memory, 64);
    let mut cache = AllocationCache::default();
    assert!(cache.lookup(base).is_none());
    assert!(cache.fill(base, 0).is_some());
    assert_eq!(cache.lookup(base + 63).unwrap().low, base);
    assert!(cache.lookup(base + 64).is_none());
    memory.free(base).unwrap();
    assert!(cache.lookup(base).is_none());
    assert!(cache.fill(base, 0).is_none());
}

#[test]
fn threads_allocate_use_and_free_at_once() {
    let memory = Memory::new(1 << 30);
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let memory = &memory;
            scope.spawn(move || {
                for round in 0..200u64 {
                    let bytes = 64 + round * 8;
                    let base = device(memory, bytes);
                    let mut host = vec![0u8; bytes as usize];
                    // SAFETY: `host` is valid for `bytes`.
                    unsafe {
                        memory.fill(base, &[thread], bytes).unwrap();
                        memory.copy(host.as_mut_ptr() as u64, base, bytes).unwrap();
                    }
                    assert!(host.iter().all(|byte| *byte == thread));
                    memory.free(base).unwrap();
                }
            });
        }
    });
    assert!(memory.allocations().is_empty());
}

#[test]
fn a_watcher_sees_what_the_host_does() {
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);
    impl MemoryWatcher for Log {
        fn allocated(&self, allocation: &Allocation) {
            self.0.lock().unwrap().push(format!("allocated {}", allocation.bytes));
        }
        fn freed(&self, allocation: &Allocation) {
            self.0.lock().unwrap().push(format!("freed {}", allocation.bytes));
        }
        fn copied_from(&self, allocation: &Allocation, address: u64, bytes: u64, _: u64) {
            self.0.lock().unwrap().push(format!("read {bytes} at {}", address - allocation.base));
        }
        fn written(&self, allocation: &Allocation, address: u64, bytes: u64, from: Option<u64>) {
            let kind = if from.is_some() { "copied" } else { "filled" };
            self.0.lock().unwrap().push(format!("{kind} {bytes} at {}", address - allocation.base));
        }
    }

    let memory = memory();
    let log = Arc::new(Log::default());
    memory.watch(Some(log.clone()));
    let a = device(&memory, 32);
    // SAFETY: both ranges are in the allocation.
    unsafe {
        memory.fill(a + 4, &[1, 2], 3).unwrap();
        memory.copy(a, a + 16, 8).unwrap();
    }
    memory.free(a).unwrap();
    memory.watch(None);
    device(&memory, 32);
    let expected = ["allocated 32", "filled 6 at 4", "read 8 at 16", "copied 8 at 0", "freed 32"];
    assert_eq!(*log.0.lock().unwrap(), expected);
}
