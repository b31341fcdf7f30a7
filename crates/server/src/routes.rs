//! The table of routes: method, path, job, handler. Every path is served with and without a version in front.

use std::pin::Pin;

use gantry_engine::Job;
use gantry_engine::jobs;

use crate::error::Result;
use crate::handlers::{containers, exec, images, networks, registries, system, volumes};
use crate::request::Request;
use crate::respond::Response;

/// One entry.
pub struct Route {
    /// `GET`, `POST` …
    pub method: &'static str,
    /// `{name}` is one segment, `{name...}` one or more.
    pub path: &'static str,
    /// The job that it runs; empty where it only answers.
    pub job: &'static str,
    pub(crate) handler: fn(Request) -> Answer,
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

macro_rules! routes {
    ($($method:ident $path:literal $job:expr => $handler:path;)*) => {
        /// Every route.
        pub const ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            job: $job,
            handler: |request| Box::pin($handler(request)),
        }),*];
    };
}

routes! {
    GET    "/_ping"                          ""                           => system::ping;
    GET    "/version"                        jobs::Version::NAME          => system::version;
    GET    "/info"                           jobs::Info::NAME             => system::info;
    GET    "/system/df"                      jobs::SystemDf::NAME         => system::disk_usage;
    POST   "/system/fsck"                    jobs::Fsck::NAME             => system::fsck;
    POST   "/auth"                           jobs::Auth::NAME             => registries::auth;
    GET    "/distribution/{name...}/json"    jobs::Distribution::NAME     => registries::distribution;
    GET    "/events"                         jobs::Events::NAME           => system::events;
    GET    "/jobs"                           jobs::Jobs::NAME             => system::jobs;
    GET    "/jobs/handlers"                  jobs::JobHandlers::NAME      => system::job_handlers;
    DELETE "/jobs/{id}"                      jobs::CancelJob::NAME        => system::cancel_job;

    GET    "/containers/json"                jobs::Containers::NAME       => containers::list;
    POST   "/containers/prune"               jobs::ContainersPrune::NAME  => containers::prune;
    POST   "/containers/create"              jobs::Create::NAME           => containers::create;
    GET    "/containers/{name...}/json"      jobs::ContainerInspect::NAME => containers::inspect;
    GET    "/containers/{name}/top"          jobs::Top::NAME              => containers::top;
    GET    "/containers/{name}/logs"         jobs::Logs::NAME             => containers::logs;
    GET    "/containers/{name}/changes"      jobs::ContainerChanges::NAME => containers::changes;
    GET    "/containers/{name}/export"       jobs::Export::NAME           => containers::export;
    GET    "/containers/{name}/stats"        jobs::Stats::NAME            => containers::stats;
    POST   "/containers/{name}/resize"       jobs::Resize::NAME           => containers::resize;
    POST   "/containers/{name}/start"        jobs::Start::NAME            => containers::start;
    POST   "/containers/{name}/stop"         jobs::Stop::NAME             => containers::stop;
    POST   "/containers/{name}/restart"      jobs::Restart::NAME          => containers::restart;
    POST   "/containers/{name}/kill"         jobs::Kill::NAME             => containers::kill;
    POST   "/containers/{name}/rename"       jobs::Rename::NAME           => containers::rename;
    POST   "/containers/{name}/update"       jobs::Update::NAME           => containers::update;
    POST   "/containers/{name}/pause"        jobs::Pause::NAME            => containers::pause;
    POST   "/containers/{name}/unpause"      jobs::Unpause::NAME          => containers::unpause;
    POST   "/containers/{name}/attach"       jobs::Attach::NAME           => containers::attach;
    POST   "/containers/{name}/wait"         jobs::Wait::NAME             => containers::wait;
    DELETE "/containers/{name...}"           jobs::Delete::NAME           => containers::delete;
    HEAD   "/containers/{name}/archive"      jobs::ArchiveStat::NAME      => containers::archive_stat;
    GET    "/containers/{name}/archive"      jobs::ArchiveGet::NAME       => containers::archive_get;
    PUT    "/containers/{name}/archive"      jobs::ArchivePut::NAME       => containers::archive_put;

    POST   "/containers/{name}/exec"         jobs::ExecCreate::NAME       => exec::create;
    POST   "/exec/{id}/start"                jobs::ExecStart::NAME        => exec::start;
    POST   "/exec/{id}/resize"               jobs::ExecResize::NAME       => exec::resize;
    GET    "/exec/{id}/json"                 jobs::ExecInspect::NAME      => exec::inspect;

    GET    "/images/json"                    jobs::Images::NAME           => images::list;
    POST   "/images/create"                  jobs::Pull::NAME             => images::pull_or_import;
    GET    "/images/get"                     jobs::ImageExport::NAME      => images::get;
    GET    "/images/search"                  jobs::Search::NAME           => registries::search;
    GET    "/images/viz"                     jobs::Viz::NAME              => images::viz;
    POST   "/images/load"                    jobs::Load::NAME             => images::load;
    POST   "/images/prune"                   jobs::ImagesPrune::NAME      => images::prune;
    POST   "/commit"                         jobs::Commit::NAME           => images::commit;
    POST   "/build/prune"                    ""                           => system::build_prune;
    GET    "/images/{name...}/get"           jobs::ImageExport::NAME      => images::get;
    GET    "/images/{name...}/json"          jobs::ImageInspect::NAME     => images::inspect;
    GET    "/images/{name...}/history"       jobs::History::NAME          => images::history;
    POST   "/images/{name...}/push"          jobs::Push::NAME             => images::push;
    POST   "/images/{name...}/tag"           jobs::ImageTag::NAME         => images::tag;
    DELETE "/images/{name...}"               jobs::ImageDelete::NAME      => images::delete;

    GET    "/volumes"                        jobs::Volumes::NAME          => volumes::list;
    POST   "/volumes/prune"                  jobs::VolumesPrune::NAME     => volumes::prune;
    POST   "/volumes/create"                 jobs::VolumeCreate::NAME     => volumes::create;
    GET    "/volumes/{name}"                 jobs::VolumeInspect::NAME    => volumes::inspect;
    DELETE "/volumes/{name}"                 jobs::VolumeDelete::NAME     => volumes::delete;

    GET    "/networks"                       jobs::Networks::NAME         => networks::list;
    POST   "/networks/prune"                 jobs::NetworksPrune::NAME    => networks::prune;
    POST   "/networks/create"                jobs::NetworkCreate::NAME    => networks::create;
    GET    "/network-ports"                  jobs::NetworkPorts::NAME     => networks::ports;
    GET    "/network-doctor/{name}"          jobs::NetworkDoctor::NAME    => networks::doctor;
    GET    "/networks/{id}"                  jobs::NetworkInspect::NAME   => networks::inspect;
    DELETE "/networks/{id}"                  jobs::NetworkRemove::NAME    => networks::remove;
    POST   "/networks/{id}/connect"          jobs::NetworkConnect::NAME   => networks::connect;
    POST   "/networks/{id}/disconnect"       jobs::NetworkDisconnect::NAME => networks::disconnect;

    GET    "/plugins"                        ""                           => system::no_plugins;
    GET    "/swarm"                          ""                           => system::no_swarm;
    GET    "/nodes"                          ""                           => system::no_swarm;
    GET    "/services"                       ""                           => system::no_swarm;
    GET    "/tasks"                          ""                           => system::no_swarm;
    GET    "/secrets"                        ""                           => system::no_swarm;
    GET    "/configs"                        ""                           => system::no_swarm;
    GET    "/swarm/{rest...}"                ""                           => system::no_swarm;
    POST   "/swarm/{verb}"                   ""                           => system::never_swarm;
    GET    "/nodes/{rest...}"               ""                           => system::no_swarm;
    POST   "/nodes/{rest...}"               ""                           => system::no_swarm;
    DELETE "/nodes/{rest...}"               ""                           => system::no_swarm;
    GET    "/services/{rest...}"            ""                           => system::no_swarm;
    POST   "/services/{rest...}"            ""                           => system::no_swarm;
    DELETE "/services/{rest...}"            ""                           => system::no_swarm;
    GET    "/tasks/{rest...}"               ""                           => system::no_swarm;
    POST   "/tasks/{rest...}"               ""                           => system::no_swarm;
    DELETE "/tasks/{rest...}"               ""                           => system::no_swarm;
    GET    "/secrets/{rest...}"             ""                           => system::no_swarm;
    POST   "/secrets/{rest...}"             ""                           => system::no_swarm;
    DELETE "/secrets/{rest...}"             ""                           => system::no_swarm;
    GET    "/configs/{rest...}"             ""                           => system::no_swarm;
    POST   "/configs/{rest...}"             ""                           => system::no_swarm;
    DELETE "/configs/{rest...}"             ""                           => system::no_swarm;
}
