//! Puts and gets with authentication off and on.
//!
//! One idea: the same load on the same server, before and after a root user has switched it on; then
//! as a user whose role may read and write just the keys of the load, with the token that a log-in
//! gave.

use varve_api::authpb::Permission;
use varve_api::authpb::permission::Type;
use varve_api::etcdserverpb::{
    AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse,
    AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthUserAddRequest,
    AuthUserAddResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthenticateRequest,
    AuthenticateResponse,
};
use varve_api::method::{
    AUTH_AUTHENTICATE, AUTH_ENABLE, AUTH_ROLE_ADD, AUTH_ROLE_GRANT_PERMISSION, AUTH_USER_ADD,
    AUTH_USER_GRANT_ROLE,
};

use super::{HEADS, Settings, block_on, cells, checked, fill, say, sum};
use crate::grpc::{Connection, Error as CallError};
use crate::load::{self, Operation, Report};
use crate::server::{Error, Program, Server};
use crate::table::{Cell, Table};
use crate::workload::{Order, PREFIX, PREFIX_END, ValueSizes};

/// Name, password and role of who makes the calls.
const USER: &str = "bench";
const OPERATIONS: [(&str, Operation); 2] =
    [("put", Operation::Put), ("get", Operation::Get { is_serializable: false })];

/// How much is called.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Clients.
    pub clients: usize,
    /// Different keys.
    pub keys: u64,
}

/// Measures and makes the table.
///
/// # Errors
/// A server does not serve, or a call failed.
pub fn run(settings: &Settings, scenario: &Auth) -> Result<Table, Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, scenario, program, server))?;
    let heads: Vec<&str> = ["call", "server", "auth"].into_iter().chain(HEADS).collect();
    let mut table = Table::new(&heads);
    for (at, (name, _)) in OPERATIONS.iter().enumerate() {
        for (program, rounds) in settings.programs().iter().zip(&measured) {
            for (of, auth) in ["off", "on"].into_iter().enumerate() {
                let total = sum(rounds.iter().map(|round| &round[of][at]));
                let mut row = [name, program.label.as_str(), auth].map(Cell::text).to_vec();
                row.extend(cells(&total));
                table.row(row);
            }
            table.ratio("on / off", 2, 0, 1);
        }
        if settings.peer.is_some() {
            table.ratio("varve / etcd, on", 1, 4, 1);
        }
    }
    Ok(table)
}

/// Reports of each operation, without and with authentication.
fn measure(
    settings: &Settings,
    scenario: &Auth,
    program: &Program,
    server: &mut Server,
) -> Result<[Vec<Report>; 2], Error> {
    let workload = settings.workload(scenario.keys, Order::Random, ValueSizes::Fixed(256));
    fill(settings, server, &workload)?;
    let call_all = |token: Option<&str>| {
        let call = |(name, operation): &(&str, Operation)| {
            let mut spec = settings.spec(server, *operation, scenario.clients, &workload);
            spec.token = token.map(str::to_owned);
            let report = checked(load::run(&spec)?)?;
            say(&format!("{}: {name}, token {}", program.label, token.is_some()), &report);
            Ok(report)
        };
        OPERATIONS.iter().map(call).collect::<Result<Vec<_>, Error>>()
    };
    let off = call_all(None)?;
    let token = block_on(enable(server))?;
    Ok([off, call_all(Some(&token))?])
}

/// Makes the users and roles, switches authentication on; the token of [`USER`].
async fn enable(server: &Server) -> Result<String, CallError> {
    let connection = Connection::open(server.addresses()[0]).await?;
    for (user, role) in [("root", "root"), (USER, USER)] {
        let add =
            AuthUserAddRequest { name: user.into(), password: user.into(), ..Default::default() };
        let _: AuthUserAddResponse = connection.call(&AUTH_USER_ADD, &add).await?;
        let add = AuthRoleAddRequest { name: role.into() };
        let _: AuthRoleAddResponse = connection.call(&AUTH_ROLE_ADD, &add).await?;
        let grant = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        let _: AuthUserGrantRoleResponse = connection.call(&AUTH_USER_GRANT_ROLE, &grant).await?;
    }
    let permission = Permission {
        perm_type: Type::Readwrite.into(),
        key: PREFIX.into(),
        range_end: PREFIX_END.into(),
    };
    let grant = AuthRoleGrantPermissionRequest { name: USER.into(), perm: Some(permission) };
    let _: AuthRoleGrantPermissionResponse =
        connection.call(&AUTH_ROLE_GRANT_PERMISSION, &grant).await?;
    let _: AuthEnableResponse = connection.call(&AUTH_ENABLE, &AuthEnableRequest {}).await?;
    let log_in = AuthenticateRequest { name: USER.into(), password: USER.into() };
    let answer: AuthenticateResponse = connection.call(&AUTH_AUTHENTICATE, &log_in).await?;
    Ok(answer.token)
}
