//! The threads that unpack the layers of an archive while it is read. Each layer is a draft without a place: loose.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::thread::{Scope, ScopedJoinHandle};

use gantry_api::reference::Digest;
use gantry_graphdriver::Error as Refused;
use gantry_linux::fs;

use super::intake::failed;
use crate::ahead::ahead;
use crate::layers::Extent;
use crate::registration::Pins;
use crate::{Error, Graph, Result};

/// Layers that are unpacked at the same time. More do not help two processors or a disk; they cost memory.
const AT_ONCE: usize = 3;
/// Buffers that wait for one of them.
const BUFFERS: usize = 24;

/// A layer of an archive, unpacked before its place was known.
pub(super) struct Loose {
    /// The driver's id of the draft.
    pub id: String,
    pub state: State,
}

pub(super) enum State {
    Unpacked(Extent, Digest),
    /// It is the draft of this layer now, which stays as long as the pins do.
    Taken(Digest, Pins),
    /// It is no layer, or a damaged one: bad only for an image that wants it.
    Broken(Error),
    Gone,
}

type Worker<'scope> = ScopedJoinHandle<'scope, Result<(Extent, Digest)>>;

/// The threads at work.
pub(super) struct Crew<'scope, 'env> {
    graph: &'env Graph,
    scope: &'scope Scope<'scope, 'env>,
    name: String,
    running: VecDeque<(String, Worker<'scope>)>,
    /// What is unpacked, in the order in which it came.
    pub done: Vec<Loose>,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    pub(super) fn new(graph: &'env Graph, scope: &'scope Scope<'scope, 'env>) -> Self {
        let name = format!("load-{}-{}", crate::graph::now(), fs::unique());
        Self { graph, scope, name, running: VecDeque::new(), done: Vec::new() }
    }

    /// Has a thread unpack what `input` has; returns the number of the layer when all of it was read. What is wrong with a
    /// layer is told to whoever wants it, but for the disk's errors: those end the load.
    pub(super) fn unpack(&mut self, input: &mut dyn Read) -> Result<usize> {
        while self.running.len() >= AT_ONCE {
            self.join()?;
        }
        let number = self.done.len() + self.running.len();
        let id = format!("{}-{number}", self.name);
        let (feed, mut reader) = ahead(BUFFERS);
        let (graph, draft) = (self.graph, id.clone());
        let worker = self.scope.spawn(move || {
            let layers = &graph.inner.layers;
            layers.fill(&draft, None, None, &mut reader, &graph.left).inspect_err(|_| layers.discard(&draft))
        });
        self.running.push_back((id, worker));
        feed.pump(input).map_err(failed)?;
        // The worker may have given up on it.
        io::copy(input, &mut io::sink()).map_err(failed)?;
        Ok(number)
    }

    /// Waits for everybody; the first error of the disk is returned.
    pub(super) fn finish(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        while !self.running.is_empty() {
            outcome = outcome.and(self.join());
        }
        outcome
    }

    /// Waits for the one that began first.
    fn join(&mut self) -> Result<()> {
        let Some((id, worker)) = self.running.pop_front() else { return Ok(()) };
        let outcome = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (state, failed) = match outcome {
            Ok((extent, diff_id)) => (State::Unpacked(extent, diff_id), Ok(())),
            Err(error @ (Error::System(_) | Error::Driver(Refused::System(_) | Refused::Inside { .. }))) => {
                (State::Gone, Err(error))
            }
            Err(error) => (State::Broken(error), Ok(())),
        };
        self.done.push(Loose { id, state });
        failed
    }
}
