//! How every function of the C interface is defined: no panic crosses it, every failure is logged, and pointers that
//! C hands in are read and written only through the wrappers here.

use super::log;
use super::status::{Outcome, Status};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Defines functions of the C interface and a list of them for `cuGetProcAddress`.
///
/// `fn name(…) { … }` needs `cuInit` first, `[always] fn` does not. `fn name | per_thread(…)` also defines the variant
/// whose NULL stream is the thread's own. The body is a block of type [`Outcome`].
macro_rules! entries {
    ($list:ident: $($(#[$meta:meta])* $([$always:ident])? fn $name:ident $(| $per_thread:ident)? ($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the name and arguments are the driver API's")]
            #[cfg_attr(feature = "driver", unsafe(no_mangle))]
            pub(crate) extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::driver::entry::call(stringify!($name), $crate::driver::entry::entries!(@always $($always)?), move || $body)
            }
            $crate::driver::entry::entries!(@per_thread $name $(| $per_thread)? ($($argument: $type),*));
        )*

        pub(super) fn $list(list: &mut Vec<(&'static str, usize)>) {
            $(
                list.push((stringify!($name), $name as *const () as usize));
                $(list.push((stringify!($per_thread), $per_thread as *const () as usize));)?
            )*
        }
    };
    (@always) => { false };
    (@always always) => { true };
    (@per_thread $name:ident ($($argument:ident: $type:ty),*)) => {};
    (@per_thread $name:ident | $per_thread:ident ($($argument:ident: $type:ty),*)) => {
        /// The variant whose NULL stream is the calling thread's own default stream.
        #[allow(non_snake_case, clippy::too_many_arguments, reason = "the name and arguments are the driver API's")]
        #[cfg_attr(feature = "driver", unsafe(no_mangle))]
        pub(crate) extern "C" fn $per_thread($($argument: $type),*) -> u32 {
            $crate::driver::entry::with_thread_stream(|| $name($($argument),*))
        }
    };
}
pub(super) use entries;

thread_local! {
    static THREAD_STREAM: Cell<bool> = const { Cell::new(false) };
}

static INITIALISED: AtomicBool = AtomicBool::new(false);
static PROCESS: OnceLock<u32> = OnceLock::new();

/// Whether the NULL stream of the call under way is the thread's own.
pub(super) fn null_is_thread_stream() -> bool {
    THREAD_STREAM.get()
}

pub(super) fn with_thread_stream(call: impl FnOnce() -> u32) -> u32 {
    THREAD_STREAM.set(true);
    let code = call();
    THREAD_STREAM.set(false);
    code
}

/// Notes that `cuInit` succeeded in this process.
pub(super) fn set_initialised() {
    PROCESS.get_or_init(std::process::id);
    INITIALISED.store(true, Ordering::Release);
}

fn initialised() -> Result<(), &'static str> {
    if !INITIALISED.load(Ordering::Acquire) {
        return Err("cuInit(0) was not called");
    }
    // A forked child has the state but none of the threads: CUDA answers CUDA_ERROR_NOT_INITIALIZED there as well.
    if PROCESS.get() != Some(&std::process::id()) {
        return Err(
            "this process was forked after cuInit: CUDA cannot be used in the child (start it with exec or spawn)",
        );
    }
    Ok(())
}

/// Runs the body of one call.
pub(super) fn call(name: &'static str, always: bool, body: impl FnOnce() -> Outcome) -> u32 {
    if !always && let Err(reason) = initialised() {
        log::error(format_args!("{name}: CUDA_ERROR_NOT_INITIALIZED: {reason}"));
        return Status::NotInitialized as u32;
    }
    let status = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            log::debug(format_args!("{name}"));
            return Status::Success as u32;
        }
        Ok(Err(failure)) => {
            let status = failure.status.name().to_string_lossy();
            match &failure.reason {
                Some(reason) => log::error(format_args!("{name}: {status}: {reason}")),
                None => log::info(format_args!("{name}: {status}")),
            }
            failure.status
        }
        Err(panic) => {
            let what = panic.downcast_ref::<String>().map(String::as_str);
            let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            log::error(format_args!("{name}: CUDA_ERROR_UNKNOWN: a defect of ptxvm: {what}"));
            Status::Unknown
        }
    };
    status as u32
}

/// Addresses below this are no pointers: NULL, small integers passed by mistake.
const LOWEST_POINTER: usize = 4096;

fn checked<T>(pointer: *const T, name: &str) -> Outcome<*const T> {
    match pointer as usize {
        0 => Err(Status::InvalidValue.because(format!("{name} is NULL"))),
        address if address < LOWEST_POINTER => {
            Err(Status::InvalidValue.because(format!("{name} is {address:#x}, which is no pointer")))
        }
        _ => Ok(pointer),
    }
}

/// A pointer that C hands in to be written through.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes; a NULL is `CUDA_ERROR_INVALID_VALUE`.
    pub(super) fn set(self, name: &str, value: T) -> Outcome {
        checked(self.0, name)?;
        // SAFETY: not NULL, and the caller of the C function promises that it points to a T that may be written.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes unless the pointer is NULL, for results that the caller may leave out.
    pub(super) fn set_if_given(self, value: T) {
        if checked(self.0, "").is_ok() {
            // SAFETY: not NULL, and the caller of the C function promises that it points to a T that may be written.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes element `index` of the array.
    pub(super) fn set_at(self, name: &str, index: usize, value: T) -> Outcome {
        checked(self.0, name)?;
        // SAFETY: not NULL, and the caller of the C function promises an array longer than `index`.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }

    pub(super) fn check(self, name: &str) -> Outcome {
        checked(self.0, name).map(|_| ())
    }

    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub(super) fn get(self, name: &str) -> Outcome<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get(name)
    }

    pub(super) fn get_at(self, name: &str, index: usize) -> Outcome<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get_at(name, index)
    }

    pub(super) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// A pointer that C hands in to be read through.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(super) fn get(self, name: &str) -> Outcome<T> {
        self.get_at(name, 0)
    }

    pub(super) fn get_at(self, name: &str, index: usize) -> Outcome<T> {
        checked(self.0, name)?;
        // SAFETY: not NULL, and the caller of the C function promises an array of T longer than `index`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The first `count` elements of the array; NULL is well where `count` is 0.
    pub(super) fn list(self, name: &str, count: usize) -> Outcome<Vec<T>> {
        (0..count).map(|index| self.get_at(name, index)).collect()
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(super) fn address(self) -> u64 {
        self.0 as u64
    }

    pub(super) fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }
}

impl In<c_char> {
    /// The NUL-terminated text.
    pub(super) fn text(self, name: &str) -> Outcome<String> {
        checked(self.0, name)?;
        // SAFETY: not NULL, and the caller of the C function promises a NUL-terminated text.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

/// An address that C hands in, of memory whose size another argument or the contents say.
pub(crate) type Address = In<u8>;

impl In<u8> {
    /// Copies `bytes` from there.
    pub(super) fn bytes(self, name: &str, bytes: usize) -> Outcome<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        checked(self.0, name)?;
        // SAFETY: not NULL, and the caller of the C function promises that `bytes` can be read there.
        Ok(unsafe { std::slice::from_raw_parts(self.0, bytes) }.to_vec())
    }
}

/// Writes `text` and a NUL into `capacity` bytes at `buffer`, cut off where it is too long; returns the bytes written.
pub(super) fn write_text(buffer: Out<c_char>, capacity: usize, text: &str) -> Outcome<usize> {
    if capacity == 0 || buffer.is_null() {
        return Ok(0);
    }
    let bytes = &text.as_bytes()[..text.len().min(capacity - 1)];
    for (index, byte) in bytes.iter().enumerate() {
        buffer.set_at("the text buffer", index, *byte as c_char)?;
    }
    buffer.set_at("the text buffer", bytes.len(), 0)?;
    Ok(bytes.len() + 1)
}

macro_rules! pointer_conversions {
    ($($wrapper:ident: $pointer:ty),*) => {$(
        impl<T> From<$pointer> for $wrapper<T> {
            fn from(pointer: $pointer) -> Self {
                $wrapper(pointer)
            }
        }
    )*};
}
pointer_conversions!(Out: *mut T, In: *const T);

/// Any pointer, kept but not followed.
pub(crate) type Opaque = *mut c_void;
