-- The outbox: an append-only log, read by a snapshot-difference cursor.
--
-- No row is ever updated or deleted one by one. A row carries the 64-bit id of the transaction that
-- wrote it; the cursor is a pg_snapshot, and what comes next is exactly what is visible now and was
-- not visible then. Space comes back by TRUNCATE of one child of a ring at a time.

-- Order inside a batch. "cache 1" is a matter of correctness: ids must grow in the order in which
-- they are handed out, across sessions.
create sequence outbox_id_seq as bigint cache 1;

create table outbox (
  -- First column, so that it is evaluated before nextval(): a transaction has its xid before it has
  -- an id. The reader's lower bound for ids rests on that order.
  xid            xid8        not null default pg_current_xact_id(),
  id             bigint      not null default nextval('outbox_id_seq'),
  -- Stored, so that a row keeps its lane whatever a later hash function says.
  lane           smallint    not null
                 generated always as ((coalesce(hashtextextended(key, 0), id) & 63)::smallint) stored,
  created_at     timestamptz not null default clock_timestamp(),
  -- Made by the producer (UUID version 7). Not indexed: a unique index on it would be the one that
  -- hurts, and the inbox is what removes duplicates.
  event_id       uuid        not null,
  type           text        not null check (octet_length(type) between 1 and 255),
  source         text        not null check (octet_length(source) between 1 and 255),
  key            text        check (octet_length(key) between 1 and 255),
  time           timestamptz not null,
  content_type   text        not null check (octet_length(content_type) between 1 and 255),
  correlation_id text        check (octet_length(correlation_id) <= 255),
  causation_id   text        check (octet_length(causation_id) <= 255),
  traceparent    text        check (octet_length(traceparent) = 55),
  tracestate     text        check (octet_length(tracestate) <= 512),
  headers        json        check (octet_length(headers::text) <= 400000),
  payload        bytea       not null check (octet_length(payload) <= 16777216)
) partition by list (((id >> 22) & 7));

-- Eight children of 4,194,304 ids each. Chosen by the sequence alone, so a writer with an old
-- snapshot still writes where the reader looks, and no partition is ever made or missed at run time.
-- Autovacuum would only find aborted rows, which TRUNCATE removes too.
do $$
begin
  for i in 0..7 loop
    execute format('create table outbox_%s partition of outbox for values in (%s)
                      with (autovacuum_enabled = off, toast_tuple_target = 8160)', i, i);
    begin
      execute format('alter table outbox_%s alter payload set compression lz4', i);
    exception when feature_not_supported then  -- a server built without lz4
      execute format('alter table outbox_%s alter payload set storage external', i);
    end;
  end loop;
end $$;

create index outbox_xid on outbox (xid, id);  -- the live tail, and transactions that commit late
create index outbox_id on outbox (id);        -- paging through a frozen backlog

-- Events that the broker could not route. A relay moves them here in the transaction that moves its
-- cursor past them, and removes them when they were routed after all.
create table parked (
  id             bigint      primary key,  -- the outbox id
  lane           smallint    not null,
  reason         text        not null,
  attempts       int         not null default 1,
  parked_at      timestamptz not null default clock_timestamp(),
  created_at     timestamptz not null,
  event_id       uuid        not null,
  type           text        not null,
  source         text        not null,
  key            text,
  time           timestamptz not null,
  content_type   text        not null,
  correlation_id text,
  causation_id   text,
  traceparent    text,
  tracestate     text,
  headers        json,
  payload        bytea       not null
);
create index parked_type on parked (type, id);

-- Which cluster the cursor belongs to: transaction ids mean nothing in another one.
create table meta (
  one               boolean primary key default true check (one),
  system_identifier bigint  not null
);
insert into meta (system_identifier) select system_identifier from pg_control_system();

create sequence relay_token_seq as bigint cache 1;

-- One row per incarnation of a relay. The token is its fencing token: it only grows, and every
-- statement that writes a cursor checks it.
create table relay (
  token         bigint      primary key default nextval('relay_token_seq'),
  name          text        not null,
  backend_pid   int         not null,
  started_at    timestamptz not null default clock_timestamp(),
  expires_at    timestamptz not null,  -- by the database's clock
  fenced        boolean     not null default false
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
        autovacuum_vacuum_cost_delay = 0);

-- The cursor of each lane, beside the events: it is restored, rolled back and failed over with them.
create table lane (
  lane     smallint    primary key,
  token    bigint,                -- who holds it; null when free
  done     pg_snapshot not null,  -- every event visible in it is published and confirmed
  target   pg_snapshot,           -- while a backlog is paged: the frozen end of it …
  last_id  bigint,                -- … and how far in it everything is confirmed
  floor_id bigint      not null default 0,  -- no event that `done` does not see has a lower id,
                                            -- except those of its in-progress transactions
  check ((target is null) = (last_id is null))
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
        autovacuum_vacuum_cost_delay = 0);
insert into lane (lane, done) select g, pg_current_snapshot() from generate_series(0, 63) g;

-- Empties one child of the ring when everything in it is published and nobody uses it. To be called
-- in a READ COMMITTED transaction of its own. Returns what happened.
create function truncate_published(child int) returns text language plpgsql
  set search_path from current as $$
declare
  name text := format('outbox_%s', child);
  found boolean;
  -- Only rows at or above the lowest xmin of all cursors can be unpublished: a short index range.
  probe text := format(
    'select exists (select from %I e join lane l on l.lane = e.lane
       where e.xid >= (select min(pg_snapshot_xmin(done)) from lane)
         and not (pg_visible_in_snapshot(e.xid, l.done)
                  or (l.target is not null and pg_visible_in_snapshot(e.xid, l.target)
                      and e.id <= l.last_id)))', name);
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'truncate_published needs READ COMMITTED';
  end if;
  if child = (select (last_value >> 22) & 7 from outbox_id_seq) then return 'current'; end if;
  execute format('select not exists (select from %I)', name) into found;
  if found then return 'empty'; end if;
  execute probe into found;
  if found then return 'unpublished'; end if;
  begin
    -- An open writer of this child, which may hold uncommitted events, or a dump refuses the lock.
    execute format('lock table only %I in access exclusive mode nowait', name);
  exception when lock_not_available then return 'busy';
  end;
  execute probe into found;  -- again, with a new snapshot and no writer in flight
  if found then return 'unpublished'; end if;
  execute format('truncate only %I', name);
  return 'truncated';
end $$;
