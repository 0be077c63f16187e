//! User objects: something of the program's that graphs keep alive.

use super::entry::{Opaque, Out, entries};
use super::state::{Kind, State, known, lock};
use super::status::{Outcome, Status};
use super::types::{Handle, HostFunction};

pub(super) struct UserObject {
    data: u64,
    destroy: HostFunction,
    references: u64,
}

impl UserObject {
    pub(super) fn retain(&mut self) {
        self.references += 1;
    }
}

impl State {
    /// Gives up references; returns what must be called, without the lock, when the last one is gone.
    #[must_use]
    pub(super) fn release_object(&mut self, handle: Handle, count: u64) -> Option<impl FnOnce() + use<>> {
        let object = self.user_objects.get_mut(&handle)?;
        object.references = object.references.saturating_sub(count);
        if object.references > 0 {
            return None;
        }
        let object = self.user_objects.remove(&handle)?;
        Some(move || {
            if let Some(destroy) = object.destroy {
                // SAFETY: the caller promised that the destructor can be called with this data, once.
                unsafe { destroy(object.data as Opaque) };
            }
        })
    }
}

fn check_count(count: u32) -> Outcome {
    if count == 0 || count > i32::MAX as u32 {
        return Err(Status::InvalidValue.because(format!("{count} references")));
    }
    Ok(())
}

fn release(object: Handle, count: u32) -> Outcome {
    check_count(count)?;
    let destroy = {
        let mut state = lock();
        known(&mut state.user_objects, object, "user object")?;
        state.release_object(object, count.into())
    };
    if let Some(destroy) = destroy {
        destroy();
    }
    Ok(())
}

entries! { list:
    fn cuUserObjectCreate(object: Out<Handle>, data: Opaque, destroy: HostFunction, references: u32, flags: u32) {
        object.check("object_out")?;
        check_count(references)?;
        if destroy.is_none() || flags != 1 {
            return Err(Status::InvalidValue.because("expected a destructor, and CU_USER_OBJECT_NO_DESTRUCTOR_SYNC"));
        }
        let mut state = lock();
        let handle = state.new_handle(Kind::UserObject);
        state.user_objects.insert(handle, UserObject { data: data as u64, destroy, references: references.into() });
        object.set("object_out", handle)
    }

    fn cuUserObjectRetain(object: Handle, count: u32) {
        check_count(count)?;
        known(&mut lock().user_objects, object, "user object")?.references += u64::from(count);
        Ok(())
    }

    fn cuUserObjectRelease(object: Handle, count: u32) { release(object, count) }

    fn cuGraphRetainUserObject(graph: Handle, object: Handle, count: u32, flags: u32) {
        check_count(count)?;
        if flags > 1 {
            return Err(Status::InvalidValue.because(format!("there are no CUuserObjectRetain_flags {flags:#x}")));
        }
        let mut state = lock();
        let moved = flags == 1;
        let held = known(&mut state.user_objects, object, "user object")?;
        held.references += if moved { 0 } else { u64::from(count) };
        state.graph(graph)?.user_objects.push((object, count.into()));
        Ok(())
    }

    fn cuGraphReleaseUserObject(graph: Handle, object: Handle, count: u32) {
        check_count(count)?;
        {
            let mut state = lock();
            let objects = &mut state.graph(graph)?.user_objects;
            let Some(index) = objects.iter().position(|(held, references)| *held == object && *references >= u64::from(count))
            else {
                return Err(Status::InvalidValue.because("the graph does not hold so many references to the object"));
            };
            objects[index].1 -= u64::from(count);
            if objects[index].1 == 0 {
                objects.remove(index);
            }
        }
        release(object, count)
    }
}
