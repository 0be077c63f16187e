//! The CUDA driver API, in its C form.
//!
//! Calls are checked and answered as a driver does; device work goes to the `engine`, which keeps to the order of
//! streams, events and graphs. With the feature `driver` the functions are exported by their names.

mod capture;
mod clock;
mod context;
mod copy;
mod device;
mod engine;
mod entry;
mod error;
mod event;
mod fill;
mod function;
mod graph;
mod host_memory;
mod image;
mod jit;
mod launch;
mod library;
mod link;
mod log;
mod memory;
mod module;
mod occupancy;
mod operation;
mod pointer;
mod pool;
mod primary;
mod proc_address;
mod state;
mod status;
mod stream;
mod types;
mod unsupported;
mod user_object;
mod value;
mod virtual_memory;

#[cfg(test)]
mod tests;

/// Every function of the C interface, by name.
fn exported() -> Vec<(&'static str, usize)> {
    let mut list = Vec::new();
    for part in [
        capture::list,
        context::list,
        copy::list,
        device::list,
        error::list,
        event::list,
        fill::list,
        function::list,
        graph::list,
        host_memory::list,
        launch::list,
        library::list,
        link::list,
        memory::list,
        module::list,
        occupancy::list,
        pointer::list,
        pool::list,
        primary::list,
        proc_address::list,
        stream::list,
        unsupported::list,
        user_object::list,
        value::list,
        virtual_memory::list,
    ] {
        part(&mut list);
    }
    list
}
