//! `search`: looks for repositories at a registry.

use gantry_api::filters::Filters;
use gantry_api::registry::SearchResult;
use gantry_api::system::AuthConfig;

use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};

/// Lines where nobody says how many.
const USUAL: u32 = 25;
/// The most that registries give.
const MOST: u32 = 100;

/// Searches a registry.
pub struct Search {
    /// What for; a registry's host may come first.
    pub term: String,
    /// How many lines; none is 25.
    pub limit: Option<i64>,
    /// As the query says them.
    pub filters: Option<String>,
    /// The caller's credentials.
    pub auth: Option<AuthConfig>,
}

impl Job for Search {
    const NAME: &'static str = "search";
    const DOC: &'static str = "looks for repositories at a registry";
    const CLASS: Class = Class::Read;
    type Output = Vec<SearchResult>;

    fn arguments(&self) -> String {
        self.term.clone()
    }

    async fn run(self, context: Context) -> Result<Vec<SearchResult>> {
        let filters = Filters::parse(self.filters.as_deref(), &["is-automated", "is-official", "stars"])?;
        let (official, automated) = (filters.boolean("is-official")?, filters.boolean("is-automated")?);
        let stars: Vec<u64> = filters
            .get("stars")
            .map(|text| text.parse().map_err(|_| Error::invalid(format!("invalid filter 'stars={text}'"))))
            .collect::<Result<_>>()?;
        let limit = match self.limit.unwrap_or(0) {
            0 => USUAL,
            limit => match u32::try_from(limit) {
                Ok(limit @ 1..=MOST) => limit,
                _ => return Err(Error::invalid(format!("limit {limit} is outside the range of [1, {MOST}]"))),
            },
        };
        let mut found = context.engine.registry.search(&self.term, limit, self.auth.as_ref()).await?;
        found.retain(|one| {
            official.is_none_or(|wanted| one.is_official == wanted)
                && automated.is_none_or(|wanted| one.is_automated == wanted)
                && stars.iter().all(|least| one.star_count >= *least)
        });
        Ok(found)
    }
}
