//! Addresses that are not the program's: alignment, lifetime, initialisation, tables.

use cudarc::driver::{DriverError, result, sys};

use super::scenario;
use crate::mutants::{
    Source::{Corpus, Cuda, Ptx},
    Stage,
    stage::{Argument, arguments, line},
};

type Outcome = Result<(), DriverError>;

scenario!(LOOK_UP, Cuda("tables"), look_up);
fn look_up(stage: &Stage) -> Outcome {
    let (which, out) = (stage.integers(200, 0, 1_000), stage.empty::<f32>(200));
    stage.launch("look_up", line(2, 128, 0), arguments![&which, &out, 200])?;
    stage.finish()
}

scenario!(LOCAL_COUNTS, Cuda("tables"), local_counts);
fn local_counts(stage: &Stage) -> Outcome {
    let (values, out) = (stage.integers(640, 0, 1_000), stage.empty::<i32>(64));
    stage.launch("count_in_local_memory", line(2, 32, 0), arguments![&values, &out, 10])?;
    stage.finish()
}

scenario!(LOCAL_SORT, Corpus("calls"), local_sort);
fn local_sort(stage: &Stage) -> Outcome {
    let (values, out) = (stage.integers(24 * 40, -99, 99), stage.empty::<i32>(24 * 40));
    stage.launch("sort_in_local_memory", line(2, 32, 0), arguments![&values, &out, 40])?;
    stage.finish()
}

scenario!(PTX_LOCAL, Ptx("barrier"), ptx_local);
fn ptx_local(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(64), stage.empty::<f32>(64));
    stage.launch("swap_halves", line(1, 64, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(SCRATCH, Cuda("tables"), scratch);
fn scratch(stage: &Stage) -> Outcome {
    let out = stage.empty::<f32>(64);
    let global = stage.module.get_global("scratch", stage.stream())?;
    let start = {
        use cudarc::driver::DevicePtr as _;
        global.device_ptr(stage.stream()).0
    };
    let from = if stage.mutated { start + 4 } else { start };
    stage.launch("fill_scratch", line(1, 64, 0), arguments![64])?;
    stage.launch("copy_words", line(1, 64, 0), arguments![from, &out, 64])?;
    stage.finish()
}

scenario!(ROWS, Cuda("tables"), rows);
fn rows(stage: &Stage) -> Outcome {
    let (matrix, out) = (stage.floats(32 * 20), stage.empty::<f32>(32));
    let Argument::Address(start) = Argument::from(&matrix) else { unreachable!("a buffer is an address") };
    let mut pointers: Vec<u64> = (0..32).map(|row| start + row * 80).collect();
    let on_host = [0.0f32; 20];
    if stage.mutated {
        // Memory of the host that no kernel may touch.
        pointers[5] = on_host.as_ptr() as u64;
    }
    let pointers = stage.device.upload(&pointers);
    stage.launch("sum_rows", line(1, 32, 0), arguments![&pointers, &out, 20])?;
    stage.finish()
}

scenario!(NULL_ROW, Cuda("tables"), null_row);
fn null_row(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(64), stage.empty::<f32>(64));
    let from = if stage.mutated { Argument::Address(0) } else { Argument::from(&input) };
    stage.launch("copy_words", line(1, 64, 0), &[from, (&out).into(), 64.into()])?;
    stage.finish()
}

/// The kernel gets the address `bytes` after its buffer's start where the stage is mutated.
fn shifted(stage: &Stage, buffer: Argument, bytes: u64) -> Argument {
    match buffer {
        Argument::Address(start) if stage.mutated => Argument::Address(start + bytes),
        other => other,
    }
}

scenario!(SAXPY_SHIFTED, Corpus("elementwise"), saxpy_shifted);
fn saxpy_shifted(stage: &Stage) -> Outcome {
    let (x, y) = (stage.floats(1_004), stage.floats(1_004));
    let from = shifted(stage, (&x).into(), 4);
    stage.launch("saxpy_vectorised", line(2, 64, 0), &[1.5f32.into(), from, (&y).into(), 1_000.into()])?;
    stage.finish()
}

scenario!(BF16_SHIFTED, Corpus("bfloat16"), bf16_shifted);
fn bf16_shifted(stage: &Stage) -> Outcome {
    let (input, out) = (stage.zeros::<u16>(808), stage.empty::<u16>(808));
    let to = shifted(stage, (&out).into(), 2);
    let shape = line(2, 64, 0);
    stage.launch("scale_bias_bf16", shape, &[(&input).into(), to, 1.5f32.into(), 0.5f32.into(), 100.into()])?;
    stage.finish()
}

scenario!(ATOMIC_SHIFTED, Corpus("atomics"), atomic_shifted);
fn atomic_shifted(stage: &Stage) -> Outcome {
    let (input, sums) = (stage.zeros::<f64>(100), stage.zeros::<u64>(2));
    let (total, largest, lowest) = (stage.zeros::<f64>(1), stage.zeros::<f64>(1), stage.zeros::<i64>(1));
    let sum = shifted(stage, (&sums).into(), 4);
    let arguments = [(&input).into(), sum, (&total).into(), (&largest).into(), (&lowest).into(), 100.into()];
    stage.launch("atomics_64", line(1, 128, 0), &arguments)?;
    stage.finish()
}

scenario!(PRODUCT, Corpus("atomics"), product);
fn product(stage: &Stage) -> Outcome {
    let (factors, product) = (stage.floats(200), stage.floats(1));
    stage.launch("product", line(2, 100, 0), &[(&factors).into(), (&product).into(), 200.into()])?;
    stage.finish()
}

scenario!(FREED_BEFORE_LAUNCH, Cuda("tables"), freed_before_launch);
fn freed_before_launch(stage: &Stage) -> Outcome {
    let out = stage.empty::<f32>(64);
    // SAFETY: freed once, after its use unless mutated.
    unsafe {
        let input = result::malloc_sync(256)?;
        result::memset_d8_sync(input, 1, 256)?;
        if stage.mutated {
            result::free_sync(input)?;
        }
        stage.launch("copy_words", line(1, 64, 0), arguments![input, &out, 64])?;
        stage.finish()?;
        if !stage.mutated {
            result::free_sync(input)?;
        }
    }
    Ok(())
}

scenario!(FREED_ASYNC, Cuda("tables"), freed_async);
fn freed_async(stage: &Stage) -> Outcome {
    let out = stage.empty::<f32>(64);
    let stream = stage.stream().cu_stream();
    // SAFETY: freed once, after its use unless mutated.
    unsafe {
        let input = result::malloc_async(stream, 256)?;
        result::memset_d8_async(input, 1, 256, stream)?;
        if stage.mutated {
            result::free_async(input, stream)?;
        }
        stage.launch("copy_words", line(1, 64, 0), arguments![input, &out, 64])?;
        if !stage.mutated {
            result::free_async(input, stream)?;
        }
    }
    stage.finish()
}

scenario!(COPY_AFTER_FREE, Cuda("tables"), copy_after_free);
fn copy_after_free(stage: &Stage) -> Outcome {
    let mut host = [0u8; 256];
    // SAFETY: freed once, after its use unless mutated.
    unsafe {
        let input = result::malloc_sync(256)?;
        result::memset_d8_sync(input, 1, 256)?;
        if !stage.mutated {
            result::memcpy_dtoh_sync(&mut host, input)?;
        }
        result::free_sync(input)?;
        if stage.mutated {
            result::memcpy_dtoh_sync(&mut host, input)?;
        }
    }
    stage.finish()
}

scenario!(UNLOADED_MODULE, Cuda("tables"), unloaded_module);
fn unloaded_module(stage: &Stage) -> Outcome {
    let out = stage.empty::<f32>(64);
    let second = stage.device.module_of("tables", &crate::mutants::Scenario::healthy_text(&UNLOADED_MODULE));
    let start = {
        use cudarc::driver::DevicePtr as _;
        let global = second.get_global("scratch", stage.stream())?;
        global.device_ptr(stage.stream()).0
    };
    // A module's globals live as long as the module.
    let kept = if stage.mutated {
        drop(second);
        None
    } else {
        Some(second)
    };
    stage.launch("copy_words", line(1, 64, 0), arguments![start, &out, 64])?;
    stage.finish()?;
    drop(kept);
    Ok(())
}

scenario!(FREED_ONCE, Cuda("tables"), freed_once);
fn freed_once(stage: &Stage) -> Outcome {
    // SAFETY: freed once unless mutated.
    unsafe {
        let buffer = result::malloc_sync(256)?;
        result::free_sync(buffer)?;
        if stage.mutated {
            result::free_sync(buffer)?;
        }
    }
    stage.finish()
}

scenario!(FREED_ONCE_ASYNC, Cuda("tables"), freed_once_async);
fn freed_once_async(stage: &Stage) -> Outcome {
    let stream = stage.stream().cu_stream();
    // SAFETY: freed once unless mutated.
    unsafe {
        let buffer = result::malloc_async(stream, 256)?;
        result::free_async(buffer, stream)?;
        if stage.mutated {
            result::free_async(buffer, stream)?;
        }
    }
    stage.finish()
}

scenario!(PINNED_ONCE, Cuda("tables"), pinned_once);
fn pinned_once(stage: &Stage) -> Outcome {
    // SAFETY: freed once unless mutated.
    unsafe {
        let buffer = result::malloc_host(256, 0)?;
        result::free_host(buffer)?;
        if stage.mutated {
            result::free_host(buffer)?;
        }
    }
    stage.finish()
}

scenario!(LEAK, Cuda("tables"), leak);
fn leak(stage: &Stage) -> Outcome {
    // SAFETY: a fresh buffer that nothing uses.
    unsafe {
        let buffer = result::malloc_sync(256)?;
        if !stage.mutated {
            result::free_sync(buffer)?;
        }
    }
    stage.finish()
}

scenario!(LEAK_ALIVE, Cuda("tables"), leak_alive);
fn leak_alive(stage: &Stage) -> Outcome {
    // The program ends with its context alive, as many do.
    std::mem::forget(stage.device.context.clone());
    leak(stage)
}

scenario!(LEAK_ASYNC, Cuda("tables"), leak_async);
fn leak_async(stage: &Stage) -> Outcome {
    let stream = stage.stream().cu_stream();
    // SAFETY: a fresh buffer that nothing uses.
    unsafe {
        let buffer = result::malloc_async(stream, 256)?;
        if !stage.mutated {
            result::free_async(buffer, stream)?;
        }
    }
    stage.finish()
}

scenario!(LEAK_PINNED, Cuda("tables"), leak_pinned);
fn leak_pinned(stage: &Stage) -> Outcome {
    // SAFETY: a fresh buffer that nothing uses.
    unsafe {
        let buffer = result::malloc_host(256, 0)?;
        if !stage.mutated {
            result::free_host(buffer)?;
        }
    }
    stage.finish()
}

scenario!(LEAK_MANAGED, Cuda("tables"), leak_managed);
fn leak_managed(stage: &Stage) -> Outcome {
    // SAFETY: a fresh buffer that nothing uses.
    unsafe {
        let buffer = result::malloc_managed(256, sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL)?;
        if !stage.mutated {
            result::free_sync(buffer)?;
        }
    }
    stage.finish()
}

scenario!(UNWRITTEN_INPUT, Corpus("elementwise"), unwritten_input);
fn unwritten_input(stage: &Stage) -> Outcome {
    let a = stage.floats(500);
    let b = if stage.mutated { stage.empty::<f32>(500) } else { stage.zeros::<f32>(500) };
    let c = stage.empty::<f32>(500);
    stage.launch("vector_add", line(2, 256, 0), arguments![&a, &b, &c, 500])?;
    stage.finish()
}

scenario!(SHORT_MEMSET, Cuda("tables"), short_memset);
fn short_memset(stage: &Stage) -> Outcome {
    let (input, out) = (stage.empty::<f32>(64), stage.empty::<f32>(64));
    let Argument::Address(start) = Argument::from(&input) else { unreachable!("a buffer is an address") };
    // SAFETY: within the buffer.
    unsafe {
        let bytes = if stage.mutated { 255 } else { 256 };
        result::memset_d8_async(start, 0, bytes, stage.stream().cu_stream())?;
    }
    stage.launch("copy_words", line(1, 64, 0), arguments![&input, &out, 64])?;
    stage.finish()
}
