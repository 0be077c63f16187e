//! Graphs, captured and made by hand.

use super::super::graph::{executable, nodes as graph_nodes, update as graph_update};
use super::super::types::{FillNode, KernelNodeV1, UpdateResult};
use super::super::{capture, copy, event, fill, graph, memory, pool};
use super::*;
use crate::memory::Memory;

/// Thread-local captures do not disturb other tests.
const THREAD_LOCAL: u32 = 1;

fn step_node(world: &World, params: &mut [Opaque; 3]) -> KernelNodeV1 {
    KernelNodeV1 {
        function: world.kernel("step"),
        grid: [1, 1, 1],
        block: [64, 1, 1],
        shared: 0,
        params: params.as_mut_ptr(),
        extra: std::ptr::null_mut(),
    }
}

#[test]
fn captured_work_runs_at_each_launch_and_not_before() {
    let world = World::new();
    let (first, second) = (world.stream(1), world.stream(1));
    let pointer = world.numbers(&[1; 64]);
    let (mut fork, mut join) = (Handle::NULL, Handle::NULL);
    ok(event::cuEventCreate(out(&mut fork), 2));
    ok(event::cuEventCreate(out(&mut join), 2));
    ok(context::cuCtxSynchronize());
    ok(capture::cuStreamBeginCapture_v2(first, THREAD_LOCAL));
    ok(world.step(pointer, 64, 2, first));
    ok(event::cuEventRecord(fork, first));
    ok(stream::cuStreamWaitEvent(second, fork, 0));
    ok(world.step(pointer, 64, 3, second));
    ok(event::cuEventRecord(join, second));
    ok(stream::cuStreamWaitEvent(first, join, 0));
    let mut graph = Handle::NULL;
    ok(capture::cuStreamEndCapture(first, out(&mut graph)));
    assert_eq!(world.read(pointer, 64), [1; 64]);
    let (mut nodes, mut edges) = (0, 0);
    let none = || Out::from(std::ptr::null_mut());
    ok(graph::cuGraphGetNodes(graph, none(), out(&mut nodes)));
    ok(graph::cuGraphGetEdges(graph, none(), none(), out(&mut edges)));
    assert_eq!((nodes, edges), (2, 1));
    let mut instance = Handle::NULL;
    ok(executable::cuGraphInstantiateWithFlags(out(&mut instance), graph, 0));
    ok(graph::cuGraphDestroy(graph));
    for _ in 0..2 {
        ok(executable::cuGraphLaunch(instance, first));
    }
    ok(stream::cuStreamSynchronize(first));
    assert_eq!(world.read(pointer, 64), [(((2 + 1) * 3 + 1) * 2 + 1) * 3 + 1; 64]);
    ok(executable::cuGraphExecDestroy(instance));
}

#[test]
fn what_a_capture_may_not_see_spoils_it() {
    let world = World::new();
    let (stream, other) = (world.stream(1), world.stream(1));
    let mut graph = Handle::NULL;
    ok(capture::cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    fails(stream::cuStreamSynchronize(stream), Status::StreamCaptureUnsupported);
    fails(world.poke(8, stream), Status::StreamCaptureInvalidated);
    fails(capture::cuStreamEndCapture(stream, out(&mut graph)), Status::StreamCaptureInvalidated);
    assert!(graph.is_null());

    ok(capture::cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    let mut pointer = 0;
    fails(memory::cuMemAlloc_v2(out(&mut pointer), 16), Status::StreamCaptureUnsupported);
    fails(capture::cuStreamEndCapture(stream, out(&mut graph)), Status::StreamCaptureInvalidated);

    let mut fork = Handle::NULL;
    ok(event::cuEventCreate(out(&mut fork), 2));
    ok(capture::cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    ok(event::cuEventRecord(fork, stream));
    ok(stream::cuStreamWaitEvent(other, fork, 0));
    ok(world.poke(8, other));
    fails(capture::cuStreamEndCapture(other, out(&mut graph)), Status::StreamCaptureUnmatched);
    fails(capture::cuStreamEndCapture(stream, out(&mut graph)), Status::StreamCaptureInvalidated);

    ok(capture::cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    ok(event::cuEventRecord(fork, stream));
    ok(stream::cuStreamWaitEvent(other, fork, 0));
    ok(world.poke(8, other));
    fails(capture::cuStreamEndCapture(stream, out(&mut graph)), Status::StreamCaptureUnjoined);
    fails(capture::cuStreamEndCapture(stream, out(&mut graph)), Status::IllegalState);
    fails(capture::cuStreamBeginCapture_v2(Handle::NULL, THREAD_LOCAL), Status::StreamCaptureUnsupported);

    let blocking = world.stream(0);
    ok(capture::cuStreamBeginCapture_v2(blocking, THREAD_LOCAL));
    fails(world.poke(8, Handle::NULL), Status::StreamCaptureImplicit);
    fails(capture::cuStreamEndCapture(blocking, out(&mut graph)), Status::StreamCaptureInvalidated);
}

#[test]
fn graphs_made_by_hand_keep_to_their_edges_and_can_be_changed() {
    let world = World::new();
    let mut pointer = world.numbers(&[9; 64]);
    let (mut n, mut factor) = (64_u32, 5_u32);
    let mut params: [Opaque; 3] = [(&raw mut pointer).cast(), (&raw mut n).cast(), (&raw mut factor).cast()];
    let (mut graph, mut filled, mut stepped, mut instance) = (Handle::NULL, Handle::NULL, Handle::NULL, Handle::NULL);
    ok(graph::cuGraphCreate(out(&mut graph), 0));
    let node = step_node(&world, &mut params);
    // Made first, and yet it comes after the fill: the edge says so.
    ok(graph_nodes::cuGraphAddKernelNode(out(&mut stepped), graph, null(), 0, input(&node)));
    let fill = FillNode { to: pointer, pitch: 0, value: 2, element: 4, width: 64, height: 1 };
    ok(graph_nodes::cuGraphAddMemsetNode(out(&mut filled), graph, null(), 0, input(&fill), world.context));
    ok(graph::cuGraphAddDependencies(graph, input(&filled), input(&stepped), 1));
    fails(graph::cuGraphAddDependencies(graph, input(&filled), input(&stepped), 1), Status::InvalidValue);
    ok(executable::cuGraphInstantiateWithFlags(out(&mut instance), graph, 0));
    ok(executable::cuGraphLaunch(instance, Handle::NULL));
    assert_eq!(world.read(pointer, 64), [11; 64]);

    // The node holds its address.
    let _ = std::mem::replace(&mut factor, 100);
    ok(graph_update::cuGraphExecKernelNodeSetParams(instance, stepped, input(&node)));
    ok(executable::cuGraphLaunch(instance, Handle::NULL));
    assert_eq!(world.read(pointer, 64), [201; 64]);

    ok(executable::cuGraphNodeSetEnabled(instance, filled, 0));
    ok(executable::cuGraphLaunch(instance, Handle::NULL));
    assert_eq!(world.read(pointer, 64), [20_101; 64]);

    // A cycle cannot be instantiated.
    ok(graph::cuGraphAddDependencies(graph, input(&stepped), input(&filled), 1));
    let mut cyclic = Handle::NULL;
    fails(executable::cuGraphInstantiateWithFlags(out(&mut cyclic), graph, 0), Status::InvalidValue);
    ok(graph::cuGraphRemoveDependencies(graph, input(&stepped), input(&filled), 1));

    let (mut clone, mut found) = (Handle::NULL, Handle::NULL);
    ok(graph::cuGraphClone(out(&mut clone), graph));
    ok(graph::cuGraphNodeFindInClone(out(&mut found), stepped, clone));
    assert!(found != stepped && !found.is_null());
    let mut result = UpdateResult { result: 9, error_node: Handle::NULL, error_from_node: Handle::NULL };
    ok(graph_update::cuGraphExecUpdate_v2(instance, clone, out(&mut result)));
    let (mut changed, mut from, mut to) = (Handle::NULL, Handle::NULL, Handle::NULL);
    ok(graph::cuGraphClone(out(&mut changed), graph));
    ok(graph::cuGraphNodeFindInClone(out(&mut from), filled, changed));
    ok(graph::cuGraphNodeFindInClone(out(&mut to), stepped, changed));
    ok(graph::cuGraphRemoveDependencies(changed, input(&from), input(&to), 1));
    fails(graph_update::cuGraphExecUpdate_v2(instance, changed, out(&mut result)), Status::GraphExecUpdateFailure);
    assert_eq!(result.result, 2);
    let mut extra = Handle::NULL;
    ok(graph_nodes::cuGraphAddEmptyNode(out(&mut extra), clone, null(), 0));
    fails(graph_update::cuGraphExecUpdate_v2(instance, clone, out(&mut result)), Status::GraphExecUpdateFailure);
    assert_eq!(result.result, 2);
}

#[test]
fn a_child_graph_is_a_copy_that_runs_between_its_neighbours() {
    let world = World::new();
    let mut pointer = world.numbers(&[1; 64]);
    let (mut n, mut factor) = (64_u32, 10_u32);
    let mut params: [Opaque; 3] = [(&raw mut pointer).cast(), (&raw mut n).cast(), (&raw mut factor).cast()];
    let (mut inner, mut outer, mut a, mut b, mut c) =
        (Handle::NULL, Handle::NULL, Handle::NULL, Handle::NULL, Handle::NULL);
    ok(graph::cuGraphCreate(out(&mut inner), 0));
    ok(graph::cuGraphCreate(out(&mut outer), 0));
    let node = step_node(&world, &mut params);
    ok(graph_nodes::cuGraphAddKernelNode(out(&mut a), inner, null(), 0, input(&node)));
    // The node holds its address.
    let _ = std::mem::replace(&mut factor, 2);
    ok(graph_nodes::cuGraphAddKernelNode(out(&mut a), outer, null(), 0, input(&node)));
    ok(graph_nodes::cuGraphAddChildGraphNode(out(&mut b), outer, input(&a), 1, inner));
    // The node holds its address.
    let _ = std::mem::replace(&mut factor, 3);
    ok(graph_nodes::cuGraphAddKernelNode(out(&mut c), outer, input(&b), 1, input(&node)));
    ok(graph::cuGraphDestroy(inner));
    let mut instance = Handle::NULL;
    ok(executable::cuGraphInstantiateWithFlags(out(&mut instance), outer, 0));
    ok(executable::cuGraphLaunch(instance, Handle::NULL));
    assert_eq!(world.read(pointer, 64), [((2 + 1) * 10 + 1) * 3 + 1; 64]);
    let mut kind = 0;
    ok(graph::cuGraphNodeGetType(b, out(&mut kind)));
    assert_eq!(kind, 4);
}

/// A captured graph that allocates, fills and, if asked to, frees; and where its memory is.
fn allocating(frees: bool) -> (Handle, u64) {
    let (mut stream, mut graph, mut pointer) = (Handle::NULL, Handle::NULL, 0);
    ok(stream::cuStreamCreate(out(&mut stream), 1));
    ok(capture::cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    ok(pool::cuMemAllocAsync(out(&mut pointer), 4096, stream));
    ok(fill::cuMemsetD8Async(pointer, 7, 4096, stream));
    if frees {
        ok(pool::cuMemFreeAsync(pointer, stream));
    }
    ok(capture::cuStreamEndCapture(stream, out(&mut graph)));
    (graph, pointer)
}

#[test]
fn memory_of_a_graph_is_there_from_its_allocation_to_its_free_in_every_launch() {
    let world = World::new();
    let stream = world.stream(1);
    let (graph, pointer) = allocating(true);
    let mut instance = Handle::NULL;
    ok(executable::cuGraphInstantiateWithFlags(out(&mut instance), graph, 0));
    for _ in 0..3 {
        ok(executable::cuGraphLaunch(instance, stream));
        ok(stream::cuStreamSynchronize(stream));
        assert!(Memory::global().find(pointer).is_none(), "freed");
        let mut word = 0u32;
        fails(copy::cuMemcpyDtoH_v2(std::ptr::from_mut(&mut word).cast(), pointer, 4), Status::InvalidValue);
    }
    // Nobody else gets the addresses while the graph may be launched again.
    let others: Vec<u64> = (0..100).map(|_| world.numbers(&[0; 1024])).collect();
    assert!(!others.contains(&pointer));
    ok(executable::cuGraphLaunch(instance, stream));
    ok(stream::cuStreamSynchronize(stream));
    ok(graph::cuGraphDestroy(graph));
    ok(executable::cuGraphExecDestroy(instance));
    fails(memory::cuMemFree_v2(pointer), Status::InvalidValue);
}

#[test]
fn memory_that_a_graph_leaves_is_the_programs_to_free_before_the_next_launch() {
    let world = World::new();
    let stream = world.stream(1);
    let (graph, pointer) = allocating(false);
    let (mut plain, mut automatic) = (Handle::NULL, Handle::NULL);
    ok(executable::cuGraphInstantiateWithFlags(out(&mut plain), graph, 0));
    for _ in 0..2 {
        ok(executable::cuGraphLaunch(plain, stream));
        ok(stream::cuStreamSynchronize(stream));
        assert_eq!(world.read(pointer, 1), [0x0707_0707]);
        fails(executable::cuGraphLaunch(plain, stream), Status::InvalidValue);
        ok(pool::cuMemFreeAsync(pointer, stream));
        ok(stream::cuStreamSynchronize(stream));
        assert!(Memory::global().find(pointer).is_none());
        fails(memory::cuMemFree_v2(pointer), Status::InvalidValue);
    }
    ok(executable::cuGraphExecDestroy(plain));
    // CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH.
    ok(executable::cuGraphInstantiateWithFlags(out(&mut automatic), graph, 1));
    for _ in 0..2 {
        ok(executable::cuGraphLaunch(automatic, stream));
        ok(stream::cuStreamSynchronize(stream));
        assert_eq!(world.read(pointer, 1), [0x0707_0707]);
    }
    ok(memory::cuMemFree_v2(pointer));
    ok(executable::cuGraphExecDestroy(automatic));
    ok(graph::cuGraphDestroy(graph));
}
