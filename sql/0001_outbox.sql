-- The outbox: an append-only log, read by a snapshot-difference cursor.
--
-- No row is ever updated or deleted one by one. A row carries the 64-bit id of the transaction that
-- wrote it; the cursor is a pg_snapshot, and what comes next is exactly what is visible now and was
-- not visible then. Space comes back by TRUNCATE of one child of a ring at a time.

-- Order inside a batch. "cache 1" is a matter of correctness: ids must grow in the order in which
-- they are handed out, across sessions.
create sequence outbox_id_seq as bigint cache 1;

-- Limits of the wire, for whoever writes around the publishers. As domains: a CHECK of the table is
-- parsed from its text for every INSERT, and ten of them cost a tenth of a writing transaction.
create domain event_text as text check (octet_length(value) between 1 and 255);
create domain event_traceparent as text check (octet_length(value) = 55);
create domain event_tracestate as text check (octet_length(value) <= 512);
create domain event_headers as json check (octet_length(value::text) <= 400000);
create domain event_payload as bytea check (octet_length(value) <= 16777216);

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
  type           event_text not null,
  source         event_text not null,
  key            event_text,
  time           timestamptz not null,
  content_type   event_text not null,
  correlation_id event_text,
  causation_id   event_text,
  traceparent    event_traceparent,
  tracestate     event_tracestate,
  expires_at     timestamptz,  -- not worth sending from then on
  headers        event_headers,
  payload        event_payload not null
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

-- The two ways to read. As functions, since they carry the planner's settings with them: the ring's
-- children have no statistics, on purpose, so every read must be an ordered index range; and neither
-- settings nor prepared statements of a session survive a pooler in transaction mode.
--
-- Both cut by bytes as well: a row comes when the payloads before it stay below the limit, so the
-- first always comes. octet_length does not read a toasted payload, and a sum of int is a bigint (of
-- bigint it would be a numeric, which costs as much as all the rest). `lanes` is a set, one bit each.

-- What is visible now and was not in a snapshot that ended at `from_xid` with `xips` in progress.
-- The first row is the snapshot of this very statement, the sequence as it saw it, and a text that
-- changes when the server restarted, failed over or was promoted. Both branches carry the limits:
-- one huge transaction must not come in one piece. The order by xid is only the index's.
create function fetch_live(xips xid8[], from_xid xid8, row_limit bigint, byte_limit bigint,
                           lanes bigint)
  returns table (snapshot text, last_id bigint, server text, id bigint, lane smallint,
                 event_id uuid, type text, source text, key text, "time" text, content_type text,
                 correlation_id text, causation_id text, traceparent text, tracestate text,
                 expires_at text, headers json, payload bytea)
  language plpgsql
  set search_path from current
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
  set max_parallel_workers_per_gather = 0 set plan_cache_mode = force_generic_plan
  set datestyle = 'ISO' set work_mem = '64MB' as $$
#variable_conflict use_column
begin
  return query
  select pg_current_snapshot()::text, (select s.last_value from outbox_id_seq s),
         pg_postmaster_start_time()::text || case when pg_is_in_recovery() then ' standby'
           else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
         null::bigint, null::smallint, null::uuid, null::text, null::text, null::text, null::text,
         null::text, null::text, null::text, null::text, null::text, null::text, null::json,
         null::bytea
  union all
  select null, null, null, l.id, l.lane, l.event_id, l.type, l.source, l.key,
         (l.time at time zone 'UTC')::text, l.content_type,
         l.correlation_id, l.causation_id, l.traceparent, l.tracestate,
         (l.expires_at at time zone 'UTC')::text, l.headers, l.payload
    from (select b.*, sum(octet_length(b.payload))
                        over (rows between unbounded preceding and 1 preceding) as bytes_before
            from (select o.* from outbox o
                   where o.xid = any(xips) and (lanes >> o.lane::int) & 1 = 1
                   order by o.xid, o.id limit row_limit) b) l
   where coalesce(l.bytes_before, 0) < byte_limit
  union all
  select null, null, null, t.id, t.lane, t.event_id, t.type, t.source, t.key,
         (t.time at time zone 'UTC')::text, t.content_type,
         t.correlation_id, t.causation_id, t.traceparent, t.tracestate,
         (t.expires_at at time zone 'UTC')::text, t.headers, t.payload
    from (select b.*, sum(octet_length(b.payload))
                        over (rows between unbounded preceding and 1 preceding) as bytes_before
            from (select o.* from outbox o
                   where o.xid >= from_xid and (lanes >> o.lane::int) & 1 = 1
                   order by o.xid, o.id limit row_limit) b) t
   where coalesce(t.bytes_before, 0) < byte_limit;
end $$;

-- The same up to a frozen `target`, in id order above `after_id`.
create function fetch_page(xips xid8[], from_xid xid8, target pg_snapshot, after_id bigint,
                           row_limit bigint, byte_limit bigint, lanes bigint)
  returns table (id bigint, lane smallint, event_id uuid, type text, source text, key text,
                 "time" text, content_type text, correlation_id text, causation_id text,
                 traceparent text, tracestate text, expires_at text, headers json, payload bytea)
  language plpgsql
  set search_path from current
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
  set max_parallel_workers_per_gather = 0 set plan_cache_mode = force_generic_plan
  set datestyle = 'ISO' set work_mem = '64MB' as $$
#variable_conflict use_column
begin
  return query
  select p.id, p.lane, p.event_id, p.type::text, p.source::text, p.key::text,
         (p.time at time zone 'UTC')::text, p.content_type::text,
         p.correlation_id::text, p.causation_id::text, p.traceparent::text, p.tracestate::text,
         (p.expires_at at time zone 'UTC')::text, p.headers::json, p.payload::bytea
    from (select b.*, sum(octet_length(b.payload))
                        over (rows between unbounded preceding and 1 preceding) as bytes_before
            from (select o.* from outbox o
                   where o.id > after_id and (o.xid >= from_xid or o.xid = any(xips))
                     and pg_visible_in_snapshot(o.xid, target)
                     and (lanes >> o.lane::int) & 1 = 1
                   order by o.id limit row_limit) b) p
   where coalesce(p.bytes_before, 0) < byte_limit;
end $$;

-- The lowest id written by these transactions. One index probe per transaction: min(id) over an
-- array would walk the index on id.
create function lowest_late_id(xips xid8[]) returns bigint language plpgsql
  set search_path from current
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
begin
  return (select min(first.id) from unnest(xips) as late(xid), lateral (
            select o.id from outbox o where o.xid = late.xid order by o.xid, o.id limit 1) first);
end $$;

-- Events that could not be published when it was their turn. A relay moves them here in the
-- transaction that moves its cursor past them, and removes them when they were published after all.
create table parked (
  id             bigint      primary key,  -- the outbox id
  lane           smallint    not null,
  reason         text        not null,  -- unroutable, refused, invalid …, suspect, held
  attempts       int         not null,
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
  expires_at     timestamptz,
  headers        json,
  payload        bytea       not null
);
create index parked_type on parked (type, id) where reason = 'unroutable';
create index parked_key on parked (key, id) where key is not null;
create index parked_refused on parked (id) where reason = 'refused';

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
  backend_pid   int         not null,  -- 0 behind a pooler: that session's end says nothing
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
  crashes    int   not null default 0,  -- so many holders in a row ended before they moved this
  suspect_id bigint,                    -- what the last of them was about to send, when it said so
  check ((target is null) = (last_id is null))
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
        autovacuum_vacuum_cost_delay = 0);
insert into lane (lane, done) select g, pg_current_snapshot() from generate_series(0, 63) g;

-- Empties one child of the ring when everything in it is published, older than `keep`, and nobody
-- uses it. A child that is about to be written again is not kept for its age: space comes first. To
-- be called in a READ COMMITTED transaction of its own. Returns what happened.
create function truncate_published(child int, keep interval default '0') returns text
  language plpgsql
  set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  name text := format('outbox_%s', child);
  ahead int;  -- so many children are written before this one
  newest timestamptz;
  found boolean;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'truncate_published needs READ COMMITTED';
  end if;
  ahead := (child - (select (last_value >> 22) & 7 from outbox_id_seq)::int + 8) % 8;
  if ahead = 0 then return 'current'; end if;
  execute format('select created_at from %I order by id desc limit 1', name) into newest;
  if newest is null then return 'empty'; end if;
  if ahead > 2 and newest > clock_timestamp() - keep then return 'kept'; end if;
  begin
    -- An open writer of this child, which may hold uncommitted events, or a dump refuses the lock.
    execute format('lock table only %I in access exclusive mode nowait', name);
  exception when lock_not_available then return 'busy';
  end;
  -- With a snapshot that is newer than the lock, and no writer in flight. Only rows at or above the
  -- lowest xmin of all cursors can be unpublished: a short index range.
  execute format(
    'select exists (select from %I e join lane l on l.lane = e.lane
       where e.xid >= (select min(pg_snapshot_xmin(done)) from lane)
         and not (pg_visible_in_snapshot(e.xid, l.done)
                  or (l.target is not null and pg_visible_in_snapshot(e.xid, l.target)
                      and e.id <= l.last_id)))', name) into found;
  if found then return 'unpublished'; end if;
  execute format('truncate only %I', name);
  return 'truncated';
end $$;

-- Goes on to the next child when the oldest event of the current one is older than `age`, so that
-- what is older can be emptied also where few events are written. Returns whether it did.
create function rotate_ring(age interval) returns boolean language plpgsql
  set search_path from current set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  at bigint;
  oldest timestamptz;
begin
  -- One at a time: the second would set the sequence back to where the first has set it.
  if not pg_try_advisory_xact_lock('outbox'::regclass::oid::bigint) then return false; end if;
  at := (select last_value from outbox_id_seq);
  -- Writers go on meanwhile. Near the end of a child one of them might take the very id that is set.
  if (at & 4194303) > 3145728 then return false; end if;
  execute format('select created_at from outbox_%s order by id limit 1', (at >> 22) & 7) into oldest;
  if oldest is null or oldest > clock_timestamp() - age then return false; end if;
  perform setval('outbox_id_seq', ((at >> 22) + 1) << 22, false);
  return true;
end $$;
