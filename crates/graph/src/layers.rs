//! Layers that are there or on their way, shared between images and between pulls.
//!
//! Each layer has one slot: whoever comes first fills it, others wait for the filling, never for the image around it.
//! Everybody who needs a layer pins it, so that a removal beside a pull leaves it. A layer that nobody pins and nothing
//! names is removed. A layer that is there and *suspect* (damaged, or not even there any more) is filled again by whoever needs it; until
//! the good one is put in its place it stays what it is for those who stand on it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use gantry_api::reference::Digest;
use gantry_graphdriver::GraphDriver;
use sha2::{Digest as _, Sha256};

use crate::ahead::ahead;
use crate::decompress::{Leavable, decompress};
use crate::image::{chain_id, finish};
use crate::{Error, Layer, Result};

/// Buffers between who inflates and who unpacks.
const BUFFERS: usize = 7;

/// Where a layer is in its life.
#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Absent,
    /// A thread unpacks or commits it.
    Busy,
    /// Unpacked into this draft of the driver; not a layer yet.
    Draft(String, Extent),
    There(Arc<Layer>),
}

#[derive(Debug, Default)]
struct Slot {
    state: State,
    pins: usize,
    /// The layer that is there, while a good one is made that takes its place.
    old: Option<Arc<Layer>>,
    /// Why the layer that is there is not to be trusted.
    suspicion: Option<String>,
}

impl Slot {
    fn there(layer: Arc<Layer>) -> Self {
        Self { state: State::There(layer), ..Self::default() }
    }

    /// What a filling that is given up leaves.
    fn before(&self) -> State {
        self.old.clone().map_or(State::Absent, State::There)
    }
}

/// The slots while they are looked at.
type Slots<'a> = MutexGuard<'a, HashMap<Digest, Slot>>;

/// The layers by chain id.
pub(crate) struct Layers {
    driver: Arc<dyn GraphDriver>,
    slots: Mutex<HashMap<Digest, Slot>>,
    changed: Condvar,
    /// How many wait for a change; it changes with the slots locked.
    waiting: AtomicUsize,
}

/// How large a layer is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Bytes of file content.
    pub content: u64,
    /// Bytes of its uncompressed archive.
    pub archive: u64,
}

/// What a layer is on top of, and what it must be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub chain_id: Digest,
    pub diff_id: Digest,
    pub parent: Option<Digest>,
}

impl Plan {
    /// What must be made for a list of diff ids, lowest first.
    pub(crate) fn of(diff_ids: &[Digest]) -> Vec<Self> {
        let mut plans: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let parent = plans.last().map(|below| below.chain_id.clone());
            plans.push(Self { chain_id: chain_id(parent.as_ref(), diff_id), diff_id: diff_id.clone(), parent });
        }
        plans
    }

    fn layer(&self, store_id: &str, extent: Extent) -> Layer {
        Layer {
            chain_id: self.chain_id.clone(),
            diff_id: self.diff_id.clone(),
            parent: self.parent.clone(),
            store_id: store_id.to_owned(),
            size: extent.content,
            archive_size: extent.archive,
            blobs: Vec::new(),
        }
    }
}

impl Layers {
    pub(crate) fn new(driver: Arc<dyn GraphDriver>, there: impl IntoIterator<Item = Arc<Layer>>) -> Self {
        let slot = |layer: Arc<Layer>| (layer.chain_id.clone(), Slot::there(layer));
        let slots = Mutex::new(there.into_iter().map(slot).collect());
        Self { driver, slots, changed: Condvar::new(), waiting: AtomicUsize::new(0) }
    }

    fn lock(&self) -> Slots<'_> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, chain: &Digest) -> Option<Arc<Layer>> {
        let slots = self.lock();
        let slot = slots.get(chain)?;
        match &slot.state {
            State::There(layer) => Some(Arc::clone(layer)),
            _ => slot.old.clone(),
        }
    }

    /// The layer that is there and that nobody is about to replace.
    pub(crate) fn settled(&self, chain: &Digest) -> Option<Arc<Layer>> {
        match self.lock().get(chain)? {
            Slot { state: State::There(layer), .. } => Some(Arc::clone(layer)),
            _ => None,
        }
    }

    /// The layers that are there.
    pub(crate) fn all(&self) -> Vec<Arc<Layer>> {
        let there = |slot: &Slot| match &slot.state {
            State::There(layer) => Some(Arc::clone(layer)),
            _ => None,
        };
        self.lock().values().filter_map(there).collect()
    }

    /// The layer that is there and not suspect.
    pub(crate) fn sound(&self, chain: &Digest) -> Option<Arc<Layer>> {
        match self.lock().get(chain)? {
            Slot { state: State::There(layer), suspicion: None, .. } => Some(Arc::clone(layer)),
            _ => None,
        }
    }

    /// Has the layer, if it is there, filled again by whoever needs it next; false when it is suspect already.
    pub(crate) fn suspect(&self, chain: &Digest, reason: &str) -> bool {
        match self.lock().get_mut(chain) {
            Some(Slot { state: State::There(_), suspicion: suspicion @ None, .. }) => {
                *suspicion = Some(reason.to_owned());
                true
            }
            _ => false,
        }
    }

    /// Takes the suspicion back; returns whether there was one.
    pub(crate) fn trust(&self, chain: &Digest) -> bool {
        let mut slots = self.lock();
        let slot = slots.get_mut(chain).filter(|slot| slot.old.is_none());
        slot.and_then(|slot| slot.suspicion.take()).is_some()
    }

    /// Why a layer is suspect.
    pub(crate) fn suspicion(&self, chain: &Digest) -> Option<String> {
        self.lock().get(chain)?.suspicion.clone()
    }

    /// Every suspect layer, and why.
    pub(crate) fn suspects(&self) -> BTreeMap<Digest, String> {
        let slots = self.lock();
        slots.iter().filter_map(|(chain, slot)| Some((chain.clone(), slot.suspicion.clone()?))).collect()
    }

    /// Whether this id of the driver is a layer, or may be about to become one: an import's is not known by its id before.
    pub(crate) fn holds(&self, store_id: &str) -> bool {
        let is_its = |slot: &Slot| match &slot.state {
            State::There(layer) => layer.store_id == store_id,
            State::Busy => true,
            State::Draft(..) | State::Absent => slot.old.as_ref().is_some_and(|old| old.store_id == store_id),
        };
        self.lock().values().any(is_its)
    }

    /// Whether the layer is there, and sound as far as is known, or unpacked.
    pub(crate) fn is_filled(&self, chain: &Digest) -> bool {
        match self.lock().get(chain) {
            Some(Slot { state: State::There(_), suspicion, .. }) => suspicion.is_none(),
            Some(Slot { state: State::Draft(..), .. }) => true,
            _ => false,
        }
    }

    pub(crate) fn pin(&self, chain: &Digest) {
        self.lock().entry(chain.clone()).or_default().pins += 1;
    }

    /// Unpins; a draft that nobody wants any more is removed. The caller collects layers that became unreferenced.
    pub(crate) fn unpin(&self, chain: &Digest) {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(chain) else { return };
        slot.pins = slot.pins.saturating_sub(1);
        if slot.pins > 0 {
            return;
        }
        match &slot.state {
            State::Absent => {
                slots.remove(chain);
            }
            State::Draft(id, _) => {
                self.discard(id);
                slot.state = slot.before();
                if slot.old.take().is_none() {
                    slots.remove(chain);
                }
            }
            State::Busy | State::There(_) => {}
        }
    }

    /// The driver's id of a layer that is there or unpacked.
    fn store_id(&self, chain: &Digest) -> Option<String> {
        match &self.lock().get(chain)?.state {
            State::There(layer) => Some(layer.store_id.clone()),
            State::Draft(id, _) => Some(id.clone()),
            State::Absent | State::Busy => None,
        }
    }

    /// Removes a layer or draft from the driver.
    pub(crate) fn discard(&self, store_id: &str) {
        if let Err(error) = self.driver.remove(store_id) {
            tracing::warn!(%error, layer = store_id, "a layer could not be removed; the next start tries again");
        }
    }

    /// Has whoever waits look again whether to go on.
    pub(crate) fn wake(&self) {
        // Who has looked already waits by now.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// How many wait at this moment for a layer that somebody else works on.
    pub(crate) fn waiting(&self) -> usize {
        // Whoever is about to wait has the slots locked.
        let _slots = self.lock();
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a change of a slot that somebody works on, until `left`.
    fn wait<'a>(&self, slots: Slots<'a>, chain: &Digest, left: &AtomicBool) -> Result<Slots<'a>> {
        if left.load(Ordering::Acquire) {
            return Err(Error::Left { layer: chain.clone() });
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let slots = self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(slots)
    }

    /// Takes the slot for filling, waiting until `left` while somebody else does; `None` when it is filled.
    fn claim(&self, chain: &Digest, left: &AtomicBool) -> Result<Option<Claim<'_>>> {
        let mut slots = self.lock();
        loop {
            let slot = slots.entry(chain.clone()).or_default();
            match &slot.state {
                State::There(layer) if slot.suspicion.is_some() => slot.old = Some(Arc::clone(layer)),
                State::Absent => {}
                State::Busy => {
                    slots = self.wait(slots, chain, left)?;
                    continue;
                }
                State::Draft(..) | State::There(_) => return Ok(None),
            }
            slot.state = State::Busy;
            let old = slot.old.clone();
            return Ok(Some(Claim { layers: self, chain: chain.clone(), back: slot.before(), old }));
        }
    }

    /// Unpacks a layer from its blob; returns its size, or `None` when it is filled already (then `blob` is not read).
    pub(crate) fn unpack(&self, plan: &Plan, blob: &mut dyn Read, left: &AtomicBool) -> Result<Option<u64>> {
        let Some(mut claim) = self.claim(&plan.chain_id, left)? else { return Ok(None) };
        let id = draft_id(&plan.chain_id, claim.old.as_ref());
        let filled = self.fill(&id, plan.parent.as_ref(), Some(&plan.diff_id), blob, left);
        let (extent, _) = filled.inspect_err(|_| self.discard(&id))?;
        claim.back = State::Draft(id, extent);
        Ok(Some(extent.content))
    }

    /// Unpacks a blob into the draft `id`; returns its extent and the digest of the uncompressed archive. One thread
    /// inflates and hashes, another unpacks, until whoever wants it has `left`.
    pub(crate) fn fill(
        &self,
        id: &str,
        parent: Option<&Digest>,
        wanted: Option<&Digest>,
        blob: &mut dyn Read,
        left: &AtomicBool,
    ) -> Result<(Extent, Digest)> {
        // A draft of that name can only be what a failed attempt could not remove.
        self.driver.remove(id)?;
        // One that is not known by another name will have this one; the commit says it again.
        let parent = parent.map(|parent| self.store_id(parent).unwrap_or_else(|| parent.hex().to_owned()));
        self.driver.create(id, parent.as_deref())?;
        let failed = |source| Error::stream("layer", source);
        let mut magic = Vec::new();
        (&mut *blob).take(4).read_to_end(&mut magic).map_err(failed)?;
        let mut blob = BufReader::with_capacity(128 << 10, io::Cursor::new(magic.clone()).chain(blob));
        let inflated = Leavable { inner: decompress(&magic, &mut blob)?, left };
        let mut hashed = Hashed { inner: inflated, hash: Sha256::new(), length: 0 };
        let (feed, mut reader) = ahead(BUFFERS);
        let (pumped, applied) = std::thread::scope(|scope| {
            let applying = scope.spawn(move || self.driver.apply(id, &mut reader));
            let pumped = feed.pump(&mut hashed);
            (pumped, applying.join())
        });
        let applied = applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        pumped.map_err(failed)?;
        let extent = Extent { content: applied?, archive: hashed.length };
        let found = finish(hashed.hash.clone());
        drop(hashed);
        io::copy(&mut blob, &mut io::sink()).map_err(failed)?;
        match wanted.filter(|wanted| **wanted != found) {
            Some(wanted) => Err(Error::Digest { what: "uncompressed layer", wanted: wanted.clone(), found }),
            None => Ok((extent, found)),
        }
    }

    /// Makes the filled draft `id` the one that the layer of `plan` comes from; false, and nothing is done, where somebody
    /// else filled it. The caller has the layer pinned.
    pub(crate) fn settle(&self, plan: &Plan, id: &str, extent: Extent, left: &AtomicBool) -> Result<bool> {
        let Some(mut claim) = self.claim(&plan.chain_id, left)? else { return Ok(false) };
        claim.back = State::Draft(id.to_owned(), extent);
        Ok(true)
    }

    /// Makes unpacked layers layers, lowest first, those that are not yet; the disk is waited for once.
    pub(crate) fn commit(&self, plans: &[Plan], left: &AtomicBool) -> Result<Vec<Arc<Layer>>> {
        let mut layers = Vec::with_capacity(plans.len());
        let mut claims = Vec::new();
        for plan in plans {
            let layer = match self.claim_draft(plan, left)? {
                Ok(layer) => layer,
                Err((mut claim, draft, extent)) => {
                    let below: Option<&Arc<Layer>> = layers.last();
                    let parent = plan.parent.as_ref().and_then(|parent| match below {
                        Some(below) if below.chain_id == *parent => Some(below.store_id.clone()),
                        _ => self.store_id(parent),
                    });
                    if let Some(old) = claim.old.clone() {
                        // What it is on top of must be there.
                        self.publish(&mut claims)?;
                        self.driver.place(&draft, &draft, parent.as_deref())?;
                        self.driver.replace(&draft, &old.store_id)?;
                        let blobs = old.blobs.clone();
                        let layer = Arc::new(Layer { blobs, ..plan.layer(&old.store_id, extent) });
                        claim.back = State::There(Arc::clone(&layer));
                        layer
                    } else {
                        let id = self.place(&draft, plan, parent.as_deref())?;
                        claim.back = State::Draft(id.clone(), extent);
                        let layer = Arc::new(plan.layer(&id, extent));
                        claims.push((claim, Arc::clone(&layer)));
                        layer
                    }
                }
            };
            layers.push(layer);
        }
        self.publish(&mut claims)?;
        Ok(layers)
    }

    /// Makes drafts that have their places layers, and gives their slots back.
    fn publish(&self, claims: &mut Vec<(Claim<'_>, Arc<Layer>)>) -> Result<()> {
        let ids: Vec<&str> = claims.iter().map(|(_, layer)| layer.store_id.as_str()).collect();
        let committed = self.driver.commit_all(&ids);
        for (claim, layer) in claims.iter_mut() {
            if committed.is_ok() || self.driver.exists(&layer.store_id) {
                claim.back = State::There(Arc::clone(layer));
            }
        }
        claims.clear();
        Ok(committed?)
    }

    /// Gives a draft its parent, and the id of its layer where it may have one that was made up; returns its id.
    fn place(&self, draft: &str, plan: &Plan, parent: Option<&str>) -> Result<String> {
        let id = if self.driver.applies_in_parallel() { plan.chain_id.hex() } else { draft };
        if id != draft {
            // What has that id can only be what could not be removed.
            self.driver.remove(id)?;
        }
        self.driver.place(draft, id, parent)?;
        Ok(id.to_owned())
    }

    /// The layer where it is one, else the right to make its draft one.
    #[allow(clippy::type_complexity, reason = "used once, above")]
    fn claim_draft(
        &self,
        plan: &Plan,
        left: &AtomicBool,
    ) -> Result<std::result::Result<Arc<Layer>, (Claim<'_>, String, Extent)>> {
        let mut slots = self.lock();
        loop {
            match slots.get_mut(&plan.chain_id) {
                Some(Slot { state: State::There(layer), .. }) => return Ok(Ok(Arc::clone(layer))),
                Some(Slot { state: State::Busy, .. }) => {
                    slots = self.wait(slots, &plan.chain_id, left)?;
                }
                Some(slot @ Slot { state: State::Draft(..), .. }) => {
                    let back = std::mem::replace(&mut slot.state, State::Busy);
                    let State::Draft(id, extent) = back.clone() else { continue };
                    let old = slot.old.clone();
                    return Ok(Err((Claim { layers: self, chain: plan.chain_id.clone(), back, old }, id, extent)));
                }
                Some(Slot { state: State::Absent, .. }) | None => {
                    return Err(Error::Conflict(format!("layer {} was not unpacked", plan.diff_id)));
                }
            }
        }
    }

    /// Replaces what is known of a layer.
    pub(crate) fn enter(&self, layer: Arc<Layer>) {
        let mut slots = self.lock();
        let slot = slots.entry(layer.chain_id.clone()).or_default();
        slot.state = State::There(layer);
        self.changed.notify_all();
    }

    /// Replaces what is known of a layer, unless somebody else does.
    pub(crate) fn exchange(&self, before: &Arc<Layer>, layer: Arc<Layer>) {
        if let Some(Slot { state: State::There(there), .. }) = self.lock().get_mut(&layer.chain_id)
            && Arc::ptr_eq(there, before)
        {
            *there = layer;
        }
    }

    /// Whether the bytes of a blob are kept for a layer that is `its`.
    pub(crate) fn keeps(&self, blob: &Digest, its: impl Fn(&Layer) -> bool) -> bool {
        let has = |layer: &Layer| its(layer) && layer.kept().any(|kept| kept == blob);
        self.lock().values().any(|slot| match &slot.state {
            State::There(layer) => has(layer),
            _ => slot.old.as_ref().is_some_and(|old| has(old)),
        })
    }

    /// Takes every layer that is there, unpinned and not `kept`. Who wants one of them waits until they are given back or
    /// discarded.
    pub(crate) fn take_unreferenced(&self, kept: impl Fn(&Digest) -> bool) -> Vec<Arc<Layer>> {
        let mut taken = Vec::new();
        for (chain, slot) in self.lock().iter_mut() {
            match &slot.state {
                State::There(layer) if slot.pins == 0 && !kept(chain) => {
                    taken.push(Arc::clone(layer));
                    slot.state = State::Busy;
                }
                _ => {}
            }
        }
        taken
    }

    /// Layers that were taken are there as before.
    pub(crate) fn give_back(&self, layers: Vec<Arc<Layer>>) {
        layers.into_iter().for_each(|layer| self.enter(layer));
    }

    /// Removes layers that were taken, from the driver; returns their chain ids.
    pub(crate) fn discard_all(&self, layers: Vec<Arc<Layer>>) -> Vec<Digest> {
        layers.iter().for_each(|layer| self.discard(&layer.store_id));
        let mut slots = self.lock();
        for layer in &layers {
            match slots.get_mut(&layer.chain_id) {
                Some(slot) if slot.pins > 0 => *slot = Slot { pins: slot.pins, ..Slot::default() },
                _ => drop(slots.remove(&layer.chain_id)),
            }
        }
        self.changed.notify_all();
        layers.iter().map(|layer| layer.chain_id.clone()).collect()
    }
}

/// The driver's id of what becomes a layer.
fn draft_id(chain: &Digest, old: Option<&Arc<Layer>>) -> String {
    if old.is_some() { format!("repair-{}", chain.hex()) } else { chain.hex().to_owned() }
}

/// A slot that a thread works on; dropping it gives it back as `back`, also when the work failed.
struct Claim<'a> {
    layers: &'a Layers,
    chain: Digest,
    back: State,
    /// The layer that a good one shall take the place of.
    old: Option<Arc<Layer>>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut slots = self.layers.lock();
        if let Some(slot) = slots.get_mut(&self.chain) {
            slot.state = self.back.clone();
            if let State::There(layer) = &slot.state {
                // It is the old one again, or a new one that is beyond suspicion.
                if slot.old.take().is_some_and(|old| !Arc::ptr_eq(&old, layer)) {
                    slot.suspicion = None;
                }
            }
            if let (State::Draft(id, _), 0) = (&self.back, slot.pins) {
                self.layers.discard(id);
                slot.state = slot.before();
                if slot.old.take().is_none() {
                    slots.remove(&self.chain);
                }
            }
        }
        self.layers.changed.notify_all();
    }
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}
