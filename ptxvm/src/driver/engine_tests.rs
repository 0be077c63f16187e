//! The engine with commands that only note that they ran.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

fn run(context: u64, after: &[CommandId], work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Command {
    Command { context, after: after.to_vec(), priority: 0, condition: None, work: Work::Run(Box::new(work)) }
}

/// Ten streams of ten commands; returns the order in which they ran.
fn trace(policy: Policy) -> Vec<(usize, usize)> {
    let engine = Engine::new(policy);
    let trace = Arc::new(Mutex::new(Vec::new()));
    let mut last = vec![Vec::new(); 10];
    for step in 0..10 {
        for (stream, last) in last.iter_mut().enumerate() {
            let trace = Arc::clone(&trace);
            let note = move || {
                trace.lock().expect("no command panics").push((stream, step));
                Ok(())
            };
            *last = vec![engine.submit(run(1, last, note))];
        }
    }
    engine.wait_for_context(1);
    let trace = trace.lock().expect("no command panics").clone();
    assert_eq!(trace.len(), 100);
    trace
}

#[test]
fn commands_of_one_stream_run_in_order() {
    for policy in [Policy::Concurrent, Policy::Seeded(0), Policy::Seeded(1)] {
        let mut next = [0; 10];
        for (stream, step) in trace(policy) {
            assert_eq!(step, next[stream]);
            next[stream] += 1;
        }
    }
}

#[test]
fn a_seed_gives_one_order_and_another_seed_another() {
    assert_eq!(trace(Policy::Seeded(3)), trace(Policy::Seeded(3)));
    assert_ne!(trace(Policy::Seeded(3)), trace(Policy::Seeded(4)));
}

#[test]
fn independent_commands_run_at_the_same_time() {
    let engine = Engine::new(Policy::Concurrent);
    let (to_second, from_first) = mpsc::channel();
    let (to_first, from_second) = mpsc::channel();
    let limit = Duration::from_secs(20);
    let met = Arc::new(AtomicUsize::new(0));
    let (first_met, second_met) = (Arc::clone(&met), Arc::clone(&met));
    engine.submit(run(1, &[], move || {
        let _ = to_second.send(());
        first_met.fetch_add(usize::from(from_second.recv_timeout(limit).is_ok()), Ordering::SeqCst);
        Ok(())
    }));
    engine.submit(run(1, &[], move || {
        let _ = to_first.send(());
        second_met.fetch_add(usize::from(from_first.recv_timeout(limit).is_ok()), Ordering::SeqCst);
        Ok(())
    }));
    engine.wait_for_context(1);
    assert_eq!(met.load(Ordering::SeqCst), 2);
}

#[test]
fn with_a_seed_nothing_runs_before_someone_waits() {
    let engine = Engine::new(Policy::Seeded(5));
    let ran = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&ran);
    let id = engine.submit(run(1, &[], move || {
        note.store(true, Ordering::SeqCst);
        Ok(())
    }));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!ran.load(Ordering::SeqCst));
    engine.wait(id);
    assert!(ran.load(Ordering::SeqCst));
}

#[test]
fn with_a_seed_asking_again_and_again_gets_there() {
    let engine = Engine::new(Policy::Seeded(5));
    let mut last = Vec::new();
    for _ in 0..5 {
        last = vec![engine.submit(run(1, &last, || Ok(())))];
    }
    let asked = (0..1000).position(|_| engine.query(last[0])).expect("the last command ends");
    assert!(asked >= 4, "one command at most for each question, but done after {asked}");
}

#[test]
fn a_fault_skips_later_commands_of_its_context_only() {
    let engine = Engine::new(Policy::Concurrent);
    let fault = Status::IllegalAddress.because("planted");
    let planted = fault.clone();
    let first = engine.submit(run(1, &[], move || Err(planted)));
    let ran = Arc::new(AtomicUsize::new(0));
    let (skipped, other) = (Arc::clone(&ran), Arc::clone(&ran));
    engine.submit(run(1, &[first], move || {
        skipped.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }));
    let told = Arc::new(Mutex::new(None));
    let hears = Arc::clone(&told);
    let always = Work::Always(Box::new(move |fault| *hears.lock().expect("no panic") = fault));
    engine.submit(Command { context: 1, after: vec![first], priority: 0, condition: None, work: always });
    engine.submit(run(2, &[first], move || {
        other.fetch_add(10, Ordering::SeqCst);
        Ok(())
    }));
    engine.wait_for_context(1);
    engine.wait_for_context(2);
    assert_eq!(ran.load(Ordering::SeqCst), 10);
    assert_eq!(engine.fault(1), Some(fault));
    assert_eq!(engine.fault(2), None);
    assert_eq!(*told.lock().expect("no panic"), Some(Status::IllegalAddress));
    engine.forget(1);
    assert_eq!(engine.fault(1), None);
}

#[test]
fn a_panic_of_a_command_is_a_fault_and_the_engine_goes_on() {
    let engine = Engine::new(Policy::Concurrent);
    let id = engine.submit(run(1, &[], || panic!("planted")));
    engine.wait(id);
    let fault = engine.fault(1).expect("a fault");
    assert_eq!(fault.status, Status::LaunchFailed);
    assert!(fault.reason.is_some_and(|reason| reason.contains("planted")));
    let next = engine.submit(run(2, &[], || Ok(())));
    engine.wait(next);
    assert_eq!(engine.fault(2), None);
}

#[test]
fn a_condition_holds_a_command_back_and_another_stream_passes() {
    for policy in [Policy::Concurrent, Policy::Seeded(9)] {
        let engine = Engine::new(policy);
        let flag = Arc::new(AtomicBool::new(false));
        let (read, write) = (Arc::clone(&flag), Arc::clone(&flag));
        let mut waiting = run(1, &[], || Ok(()));
        waiting.condition = Some(Box::new(move || read.load(Ordering::SeqCst)));
        let waiting = engine.submit(waiting);
        assert!(!engine.query(waiting));
        engine.submit(run(1, &[], move || {
            write.store(true, Ordering::SeqCst);
            Ok(())
        }));
        engine.wait(waiting);
    }
}

#[test]
fn of_two_ready_commands_the_more_urgent_goes_first() {
    let engine = Engine::new(Policy::Concurrent);
    let mut inner = engine.lock();
    for (priority, id) in [(0, 1), (-5, 2), (3, 3)] {
        inner.ready.insert((priority, id));
    }
    assert_eq!([inner.choose(false), inner.choose(false), inner.choose(false)], [Some(2), Some(1), Some(3)]);
}
