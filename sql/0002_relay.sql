-- The relay: who holds which lane, how far it is, and how it reads the outbox.

-- Which cluster the cursor belongs to: transaction ids mean nothing in another one. And which outbox
-- this is, towards the broker: a copy of the whole cluster is told apart by nothing else, once
-- `pillion adopt --new-identity` has given it an identity of its own.
create table meta (
  one               boolean primary key default true check (one),
  system_identifier bigint  not null,
  identity          uuid    not null default gen_random_uuid()
);
insert into meta (system_identifier) select system_identifier from pg_control_system();

create sequence relay_token_seq as bigint cache 1;

-- One row per incarnation of a relay. The token is its fencing token: it only grows, and every
-- statement that writes a cursor checks it.
--
-- A checkpoint writes this row alone. It renews the lease here anyway; so the position that all lanes
-- of a relay usually share stands here, too. 64 rows twice a second left so many dead versions behind
-- while somebody held an old snapshot that the checkpoint, and what waits for it, got slow.
create table relay (
  token       bigint      primary key default nextval('relay_token_seq'),
  name        text        not null,
  backend_pid int         not null,  -- 0 behind a pooler: that session's end says nothing
  started_at  timestamptz not null default clock_timestamp(),
  expires_at  timestamptz not null,  -- by the database's clock
  fenced      boolean     not null default false,
  -- Where its joined lanes are; null until first written.
  done        pg_snapshot,           -- every event that is visible in it is published and confirmed
  target      pg_snapshot,           -- while a backlog is paged: the frozen end of it ...
  last_id     bigint,                -- ... and how far in it everything is confirmed
  floor_id    bigint      not null default 0,  -- no event that `done` does not see has a lower id,
                                               -- except those of its in-progress transactions
  -- What it was about to send, when it said so. One for each relay, not for each lane: of those under
  -- way when it ends, one was the reason at most.
  in_hand_id  bigint,
  check ((target is null) = (last_id is null)),
  check (done is not null or target is null)
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
        autovacuum_vacuum_cost_delay = 0);

-- The cursor of each lane, beside the events: it is restored, rolled back and failed over with them. A
-- lane without a position of its own is joined: it is where the relay is that has its token. Lanes that
-- are elsewhere (taken over, and not yet where the others are) and free ones have their own, which is
-- written as a relay's is.
create table lane (
  lane     lane_number primary key,
  token    bigint,     -- who holds it; null when free
  done     pg_snapshot,
  target   pg_snapshot,
  last_id  bigint,
  floor_id bigint      not null default 0,
  crashes  int         not null default 0,  -- so many holders in a row ended before they moved this
  check ((target is null) = (last_id is null)),
  check (done is not null or (token is not null and target is null))
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
        autovacuum_vacuum_cost_delay = 0);
insert into lane (lane, done) select g, pg_current_snapshot() from generate_series(0, 63) g;

-- Where each lane is.
create view lane_position as
  select l.lane, l.token, coalesce(l.done, r.done) as done, coalesce(l.target, r.target) as target,
         coalesce(l.last_id, r.last_id) as last_id, coalesce(r.floor_id, l.floor_id) as floor_id
    from lane l left join relay r on r.token = l.token and l.done is null;

-- Is the event behind its lane's cursor? Inlined by the planner.
create function is_published(xid xid8, id bigint, l lane_position) returns boolean language sql stable
  return pg_visible_in_snapshot(xid, (l).done)
         or ((l).target is not null and pg_visible_in_snapshot(xid, (l).target) and id <= (l).last_id);

-- What relays had noted when they ended. An event is to blame when three did over it and none has
-- handled it to its end since, which deletes its row: one that is innocent is noted for milliseconds, so
-- that killing relays by chance does not hit it three times in a row.
create table suspect (
  id       bigint      primary key,  -- the outbox id
  deaths   int         not null,
  noted_at timestamptz not null default clock_timestamp()
);

-- A second log: events that could not be published when it was their turn, and those that wait behind
-- them. A relay moves them here in the transaction that moves its cursor past them, goes through them
-- in the order of seq, and removes in bulk what it has published. It never looks for the first one from
-- the beginning, so that the dead versions which an old snapshot keeps are not walked through again and
-- again; and seq alone identifies a row, so that nothing that is parked can meet what is there already.
create table parked (
  seq        bigint      generated always as identity primary key,  -- the order in which they came here
  xid        xid8        not null,  -- as in the log: has the cursor passed the event there?
  id         bigint      not null,  -- the outbox id
  lane       lane_number not null,
  -- unroutable, nacked, unconfirmed, forbidden: so are all of its type; refused, invalid, suspect: it is
  -- alone; held: it waits behind an earlier one of its key
  reason     text        not null,
  attempts   int         not null,
  holds      boolean     not null,  -- later events of its key wait behind it
  parked_at  timestamptz not null default clock_timestamp(),
  tried_at   timestamptz,           -- the latest attempt since then
  created_at timestamptz not null,
  like event_columns
);
-- The oldest of a type, for probing it.
create index parked_type on parked (type, seq)
  where reason in ('unroutable', 'nacked', 'unconfirmed', 'forbidden');
-- What an event waits behind: by id, since one that is read and parked again after a crash has a higher
-- seq than those behind it that were parked before.
create index parked_key on parked (key, id) where holds;
create index parked_own on parked (seq) where reason in ('refused', 'invalid', 'suspect');

drop table event_columns;  -- every table that is like it is there

-- A text that changes when the server restarted, failed over or was promoted, and with nothing else: a
-- time as text would with DateStyle and TimeZone.
create function server_state() returns text language sql stable
  return extract(epoch from pg_postmaster_start_time())::text || case when pg_is_in_recovery() then ' standby'
           else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end;

-- The two ways to read. As functions, since they carry the planner's settings with them: the ring's
-- children have no statistics, on purpose, so every read must be an ordered index range; and neither
-- settings nor prepared statements of a session survive a pooler in transaction mode.
--
-- Both cut by bytes as well: a row comes when the payloads before it stay below the limit, so the
-- first always comes. octet_length does not read a toasted payload, and a sum of int is a bigint (of
-- bigint it would be a numeric, which costs as much as all the rest). `lanes` is a set, one bit each.

-- What is visible now and was not in a snapshot that ended at `from_xid` with `xips` in progress.
-- The first row is the snapshot of this very statement, the sequence as it saw it, and the server's
-- state. Both branches carry the limits: one huge transaction must not come in one piece. The order by
-- xid is only the index's.
--
-- A sequence is read by its function, here and everywhere. A select from it takes no lock on its one row
-- and shows, for as long as nextval logs, a number that is 32 ahead: a floor that is too high, under which
-- events would never be read, and then a sequence that goes back.
create function fetch_live(xips xid8[], from_xid xid8, row_limit bigint, byte_limit bigint,
                           lanes bigint)
  returns table (snapshot text, last_id bigint, server text, id bigint, lane smallint,
                 event_id uuid, type text, source text, key text, "time" text, content_type text,
                 correlation_id text, causation_id text, traceparent text, tracestate text,
                 expires_at text, headers text, payload bytea)
  language plpgsql
  set search_path from current set row_security = off set enable_indexscan = on
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
  set max_parallel_workers_per_gather = 0 set plan_cache_mode = force_generic_plan
  set datestyle = 'ISO' set work_mem = '64MB' as $$
#variable_conflict use_column
begin
  return query
  select pg_current_snapshot()::text, coalesce(pg_sequence_last_value('outbox_id_seq'), 1),
         server_state(),
         null::bigint, null::smallint, null::uuid, null::text, null::text, null::text, null::text,
         null::text, null::text, null::text, null::text, null::text, null::text, null::text,
         null::bytea
  union all
  select null, null, null, l.id, lane_of(l.lane, l.key, l.id), l.event_id, l.type, l.source, l.key,
         (l.time at time zone 'UTC')::text, l.content_type,
         l.correlation_id, l.causation_id, l.traceparent, l.tracestate,
         (l.expires_at at time zone 'UTC')::text, l.headers, l.payload
    from (select b.*, sum(octet_length(b.payload))
                        over (rows between unbounded preceding and 1 preceding) as bytes_before
            from (select o.* from outbox o
                   where o.xid = any(xips) and (lanes >> lane_of(o.lane, o.key, o.id)::int) & 1 = 1
                   order by o.xid, o.id limit row_limit) b) l
   where coalesce(l.bytes_before, 0) < byte_limit
  union all
  select null, null, null, t.id, lane_of(t.lane, t.key, t.id), t.event_id, t.type, t.source, t.key,
         (t.time at time zone 'UTC')::text, t.content_type,
         t.correlation_id, t.causation_id, t.traceparent, t.tracestate,
         (t.expires_at at time zone 'UTC')::text, t.headers, t.payload
    from (select b.*, sum(octet_length(b.payload))
                        over (rows between unbounded preceding and 1 preceding) as bytes_before
            from (select o.* from outbox o
                   where o.xid >= from_xid and (lanes >> lane_of(o.lane, o.key, o.id)::int) & 1 = 1
                   order by o.xid, o.id limit row_limit) b) t
   where coalesce(t.bytes_before, 0) < byte_limit;
end $$;

-- The same up to a frozen `target`, in id order above `after_id`. The first row is the server's state
-- and nothing else.
create function fetch_page(xips xid8[], from_xid xid8, target pg_snapshot, after_id bigint,
                           row_limit bigint, byte_limit bigint, lanes bigint)
  returns table (server text, id bigint, lane smallint, event_id uuid, type text, source text,
                 key text, "time" text, content_type text, correlation_id text, causation_id text,
                 traceparent text, tracestate text, expires_at text, headers text, payload bytea)
  language plpgsql
  set search_path from current set row_security = off set enable_indexscan = on
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
  set max_parallel_workers_per_gather = 0 set plan_cache_mode = force_generic_plan
  set datestyle = 'ISO' set work_mem = '64MB' as $$
#variable_conflict use_column
begin
  return query
  select server_state(), null::bigint, null::smallint, null::uuid, null::text, null::text,
         null::text, null::text, null::text, null::text, null::text, null::text, null::text,
         null::text, null::text, null::bytea
  union all
  select null, p.id, lane_of(p.lane, p.key, p.id), p.event_id, p.type, p.source, p.key,
         (p.time at time zone 'UTC')::text, p.content_type, p.correlation_id, p.causation_id,
         p.traceparent, p.tracestate, (p.expires_at at time zone 'UTC')::text, p.headers, p.payload
    from (select b.*, sum(octet_length(b.payload))
                        over (rows between unbounded preceding and 1 preceding) as bytes_before
            from (select o.* from outbox o
                   where o.id > after_id and (o.xid >= from_xid or o.xid = any(xips))
                     and pg_visible_in_snapshot(o.xid, target)
                     and (lanes >> lane_of(o.lane, o.key, o.id)::int) & 1 = 1
                   order by o.id limit row_limit) b) p
   where coalesce(p.bytes_before, 0) < byte_limit;
end $$;

-- The lowest id written by these transactions. One index probe per transaction: min(id) over an
-- array would walk the index on id.
create function lowest_late_id(xips xid8[]) returns bigint language plpgsql
  set search_path from current set row_security = off set enable_indexscan = on
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
begin
  return (select min(first.id) from unnest(xips) as late(xid), lateral (
            select o.id from outbox o where o.xid = late.xid order by o.xid, o.id limit 1) first);
end $$;

-- Empties one child of the ring when everything in it is published, older than `keep`, and nobody
-- uses it. A child that is about to be written again is not kept for its age: space comes first. To
-- be called in a READ COMMITTED transaction of its own. Returns what happened.
--
-- The join is hashed, so that the dead versions of a relay's row, which pile up while an old snapshot is
-- held, are walked through once and not for each event.
create function truncate_published(child int, keep interval default '0') returns text
  language plpgsql
  set search_path from current set row_security = off
  set enable_seqscan = off set enable_bitmapscan = off set jit = off
  set enable_nestloop = off set enable_mergejoin = off as $$
declare
  name text := format('outbox_%s', child);
  ahead int;  -- so many children are written before this one
  newest timestamptz;
  found boolean;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'truncate_published needs READ COMMITTED';
  end if;
  ahead := (child - ((coalesce(pg_sequence_last_value('outbox_id_seq'), 1) >> 22) & 7)::int + 8) % 8;
  if ahead = 0 then return 'current'; end if;
  -- Events of a lane whose row is gone would look like nobody's.
  if (select count(*) from lane) < 64 then return 'unpublished'; end if;
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
    'select exists (select from %I e join lane_position l on l.lane = lane_of(e.lane, e.key, e.id)
       where e.xid >= (select min(pg_snapshot_xmin(done)) from lane_position)
         and not is_published(e.xid, e.id, l))', name) into found;
  if found then return 'unpublished'; end if;
  execute format('truncate only %I', name);
  return 'truncated';
end $$;

-- What each sequence gave out last, and the highest number in the rows that it numbers. A sequence that
-- is behind its rows (logical replication copies rows and no sequences) would give numbers out again:
-- events would overtake earlier ones, and new rows collide with old ones.
create function sequences() returns table (sequence text, last bigint, highest bigint)
  language plpgsql set search_path from current set row_security = off
  set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  return query
    select 'outbox_id_seq', coalesce(pg_sequence_last_value('outbox_id_seq'), 0),
           greatest((select o.id from outbox o order by o.id desc limit 1), (select max(p.id) from parked p))
    union all
    select 'scheduled_id_seq', coalesce(pg_sequence_last_value('scheduled_id_seq'), 0),
           (select max(d.id) from scheduled d)
    union all
    select 'relay_token_seq', coalesce(pg_sequence_last_value('relay_token_seq'), 0),
           greatest((select max(r.token) from relay r), (select max(l.token) from lane l))
    union all
    select 'parked_seq_seq', coalesce(pg_sequence_last_value('parked_seq_seq'), 0),
           (select max(p.seq) from parked p);
end $$;
