//! One repository: tags by its rules, manifests that nothing leads to, blobs that no manifest names.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::{Collected, Collector, Finding, before, short};
use crate::server::document::Document;
use crate::server::failure::Result;
use crate::server::names::{Digest, Name, Tag, Target};
use crate::server::repositories::ManifestLink;
use crate::server::store::Key;

/// What a repository's manifests name.
#[derive(Default)]
struct Graph {
    documents: HashMap<Digest, Document>,
    /// Why one of them could not be read.
    unreadable: Option<String>,
}

impl Collector<'_> {
    pub(super) async fn collect_repository(
        &mut self,
        name: &Name,
        linked: &mut Vec<u128>,
        collected: &mut Collected,
    ) -> Result<()> {
        // What was touched after this is younger than anything that is decided by what is read from here on.
        let cutoff = before((self.now)(), self.policy.grace);
        let untagged = self.collect_tags(name, collected).await?;
        let tagged = self.tagged(name, &untagged).await?;
        let graph = self.graph(name).await?;
        let (mut gone, mut unlinked) = (HashSet::new(), HashSet::new());
        if let Some(reason) = graph.unreadable {
            collected.left_alone.push((name.clone(), reason));
        } else {
            gone = self.collect_manifests(name, &tagged, &graph, cutoff, collected).await?;
            unlinked = self.collect_blobs(name, &graph, &gone, cutoff, collected).await?;
        }
        // Read last: what was linked meanwhile is linked. In a dry run what would have gone is still there.
        for (folder, gone) in [(Key::blobs(name), unlinked), (Key::manifests(name), gone)] {
            let staying = self.repositories.digests(&folder).await?.into_iter();
            linked.extend(staying.filter(|digest| !self.dry || !gone.contains(digest)).map(|digest| short(&digest)));
        }
        Ok(())
    }

    /// Tags that the rules let go. Returns those that went.
    async fn collect_tags(&mut self, name: &Name, collected: &mut Collected) -> Result<HashSet<Tag>> {
        let mut gone = HashSet::new();
        let policy = self.policy;
        let rules: Vec<_> = policy.retention.iter().filter(|rule| rule.repositories.matches(name.as_str())).collect();
        if rules.is_empty() {
            return Ok(gone);
        }
        let mut fitting: HashMap<usize, Vec<(SystemTime, Tag)>> = HashMap::new();
        for tag in self.repositories.tags(name).await? {
            let Some(rule) = rules.iter().position(|rule| rule.tags.matches(tag.as_str())) else { continue };
            if let Some(touched) = self.repositories.storage().touched(&Key::tag(name, &tag)).await? {
                fitting.entry(rule).or_default().push((touched, tag));
            }
        }
        let now = (self.now)();
        for (rule, mut tags) in fitting {
            let rule = rules[rule];
            tags.sort_by(|one, other| other.cmp(one));
            let limit = before(now, rule.older_than.map_or(policy.grace, |span| span.0));
            for (_, tag) in tags.into_iter().skip(rule.keep).filter(|(touched, _)| *touched < limit) {
                let reason = match rule.older_than {
                    Some(span) => format!("it fits {} and was not pushed for {:?}", rule.tags, span.0),
                    None => format!("it fits {} and is not among the newest {}", rule.tags, rule.keep),
                };
                if self.dry || self.remove_tag(name, &tag, limit).await? {
                    let repository = Some(name.clone());
                    let finding = Finding { kind: "tag", repository, name: tag.to_string(), size: 0, reason };
                    self.gone(finding, 1, collected);
                    gone.insert(tag);
                }
            }
        }
        Ok(gone)
    }

    async fn remove_tag(&self, name: &Name, tag: &Tag, limit: SystemTime) -> Result<bool> {
        let key = Key::tag(name, tag);
        let _tags = self.repositories.tagging.hold(name).await;
        let storage = self.repositories.storage();
        // A push that let it lead somewhere else has made it young.
        let old = storage.touched(&key).await?.is_some_and(|touched| touched < limit);
        let removed = old && storage.remove(&key).await?;
        self.repositories.doubt(name);
        Ok(removed)
    }

    async fn tagged(&self, name: &Name, without: &HashSet<Tag>) -> Result<HashSet<Digest>> {
        let mut tagged = HashSet::new();
        for tag in self.repositories.tags(name).await?.into_iter().filter(|tag| !without.contains(tag)) {
            tagged.extend(self.repositories.resolve(name, &Target::Tag(tag)).await?);
        }
        Ok(tagged)
    }

    /// Every manifest, read.
    async fn graph(&self, name: &Name) -> Result<Graph> {
        let mut graph = Graph::default();
        for digest in self.repositories.digests(&Key::manifests(name)).await? {
            let Some(link) = self.repositories.read::<ManifestLink>(&Key::manifest(name, &digest)).await? else {
                continue;
            };
            let read = match self.repositories.content(&digest, link.size).await {
                Ok(Some(bytes)) => Document::read(&bytes, Some(&link.media_type)).map_err(|failure| failure.message),
                Ok(None) => Err("its content is not there".to_owned()),
                Err(failure) => Err(failure.message),
            };
            match read {
                Ok(document) => drop(graph.documents.insert(digest, document)),
                // Deleted while it was read: it names nothing any more.
                Err(_) if self.repositories.storage().touched(&Key::manifest(name, &digest)).await?.is_none() => {}
                Err(reason) => graph.unreadable = Some(format!("manifest {digest} cannot be read: {reason}")),
            }
        }
        Ok(graph)
    }

    /// Manifests that nothing leads to, when the policy lets them go. Returns those that went.
    async fn collect_manifests(
        &mut self,
        name: &Name,
        tagged: &HashSet<Digest>,
        graph: &Graph,
        cutoff: SystemTime,
        collected: &mut Collected,
    ) -> Result<HashSet<Digest>> {
        let mut gone = HashSet::new();
        let Some(age) = self.policy.untagged else { return Ok(gone) };
        let cutoff = cutoff.min(before((self.now)(), age));
        let live = graph.reachable(tagged);
        for digest in graph.documents.keys().filter(|digest| !live.contains(*digest)) {
            if !self.is_old(&Key::manifest(name, digest), cutoff).await? {
                continue;
            }
            if self.dry || self.remove_manifest(name, digest, cutoff).await? {
                let reason = format!("no tag, index or subject has led to it for {age:?}");
                let (repository, name) = (Some(name.clone()), digest.to_string());
                self.gone(Finding { kind: "manifest", repository, name, size: 0, reason }, 1, collected);
                gone.insert(digest.clone());
            }
        }
        Ok(gone)
    }

    async fn remove_manifest(&self, name: &Name, digest: &Digest, cutoff: SystemTime) -> Result<bool> {
        let _lock = self.repositories.locks.hold(digest).await;
        if !self.is_old(&Key::manifest(name, digest), cutoff).await? {
            return Ok(false);
        }
        self.repositories.remove_manifest(name, digest).await
    }

    /// Blobs that no manifest names. Returns those that went.
    async fn collect_blobs(
        &mut self,
        name: &Name,
        graph: &Graph,
        gone: &HashSet<Digest>,
        cutoff: SystemTime,
        collected: &mut Collected,
    ) -> Result<HashSet<Digest>> {
        let mut unlinked = HashSet::new();
        let staying = graph.documents.iter().filter(|(digest, _)| !gone.contains(*digest));
        let named: HashSet<&Digest> = staying
            .flat_map(|(_, document)| document.blobs.iter().chain(&document.manifests).map(|part| &part.digest))
            .collect();
        for digest in self.repositories.digests(&Key::blobs(name)).await? {
            if named.contains(&digest) || !self.is_old(&Key::blob(name, &digest), cutoff).await? {
                continue;
            }
            if self.dry || self.remove_blob(name, &digest, cutoff).await? {
                let reason = format!(
                    "no manifest of the repository names it, and none asked for it for {:?}",
                    self.policy.grace
                );
                let repository = Some(name.clone());
                let finding = Finding { kind: "blob", repository, name: digest.to_string(), size: 0, reason };
                self.gone(finding, 1, collected);
                unlinked.insert(digest);
            }
        }
        Ok(unlinked)
    }

    async fn remove_blob(&self, name: &Name, digest: &Digest, cutoff: SystemTime) -> Result<bool> {
        let _lock = self.repositories.locks.hold(digest).await;
        let key = Key::blob(name, digest);
        Ok(self.is_old(&key, cutoff).await? && self.repositories.unlink_blob(name, digest).await?)
    }

    async fn is_old(&self, key: &Key, cutoff: SystemTime) -> Result<bool> {
        Ok(self.repositories.storage().touched(key).await?.is_some_and(|touched| touched < cutoff))
    }
}

impl Graph {
    /// What tags lead to, through indexes, and what is about that.
    fn reachable(&self, tagged: &HashSet<Digest>) -> HashSet<Digest> {
        let mut about: HashMap<&Digest, Vec<&Digest>> = HashMap::new();
        for (digest, document) in &self.documents {
            if let Some(subject) = &document.subject {
                about.entry(&subject.digest).or_default().push(digest);
            }
        }
        let mut reached = HashSet::new();
        let mut next: Vec<&Digest> = tagged.iter().collect();
        while let Some(digest) = next.pop() {
            if !reached.insert(digest.clone()) {
                continue;
            }
            next.extend(about.get(digest).into_iter().flatten());
            if let Some(document) = self.documents.get(digest) {
                next.extend(document.manifests.iter().map(|manifest| &manifest.digest));
            }
        }
        reached
    }
}
