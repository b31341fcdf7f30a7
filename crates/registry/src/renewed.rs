//! Refresh tokens that token servers gave in place of those that callers have: each may be good for one time, so whoever shows one has it
//! for itself until the answer is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::credentials::Credentials;

/// Accounts whose tokens are kept; of more, those go that were used longest ago.
const ACCOUNTS: usize = 1024;

/// Realm, service, and what the caller has: that may be worth nothing any more.
pub type Account = (String, String, Credentials);

/// The token that an account has now; none while it is the caller's own.
pub type Refresh = tokio::sync::Mutex<Option<String>>;

/// Those of all accounts.
#[derive(Default)]
pub struct Renewed(Mutex<HashMap<Account, (Arc<Refresh>, Instant)>>);

impl Renewed {
    /// The place of an account's token.
    pub fn of(&self, account: Account) -> Arc<Refresh> {
        self.within(ACCOUNTS, account)
    }

    fn within(&self, limit: usize, account: Account) -> Arc<Refresh> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.remove(&account).map(|(refresh, _)| refresh);
        let is_used = |refresh: &Arc<Refresh>| Arc::strong_count(refresh) > 1;
        // Where nothing was given there is nothing to keep.
        kept.retain(|_, (refresh, _)| is_used(refresh) || refresh.try_lock().is_ok_and(|token| token.is_some()));
        while kept.len() >= limit {
            let idle = kept.iter().filter(|(_, (refresh, _))| !is_used(refresh));
            let Some(oldest) = idle.min_by_key(|(_, (_, used))| *used).map(|(account, _)| account.clone()) else {
                break;
            };
            kept.remove(&oldest);
        }
        let refresh = known.unwrap_or_default();
        kept.insert(account, (Arc::clone(&refresh), Instant::now()));
        refresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_as_many_accounts_are_kept_as_may_be_and_those_in_use_in_any_case() {
        let renewed = Renewed::default();
        let account = |index: usize| ("realm".to_owned(), "service".to_owned(), Credentials::Token(index.to_string()));
        let given = |index: usize| {
            let refresh = renewed.within(3, account(index));
            *refresh.try_lock().unwrap() = Some(index.to_string());
            refresh
        };
        let held = given(0);
        (1..10).for_each(|index| drop(given(index)));
        let kept = |index: usize| renewed.0.lock().unwrap().contains_key(&account(index));
        assert_eq!((0..10).filter(|index| kept(*index)).collect::<Vec<_>>(), [0, 8, 9]);
        assert_eq!(*renewed.within(3, account(0)).try_lock().unwrap(), Some("0".to_owned()));
        drop(held);
        // One that was asked for and got nothing leaves with the next question.
        drop(renewed.within(3, account(10)));
        drop(renewed.within(3, account(0)));
        assert!(!kept(10) && kept(0));
    }
}
