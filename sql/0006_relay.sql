-- Writing an event costs less, what a relay is about to send is noted with the relay, and pages say
-- which server gave them.

-- A generated column and domains are worked out anew for every INSERT, and were together more than
-- half of what an event cost the server. So writers give the lane, which for those that do not is
-- worked out by readers; and a type's own length bounds memory, while the wire's limits are the
-- publishers' and publish()'s to keep, and the relay's to check again: it parks what breaks them.
alter table outbox alter lane drop expression, alter lane drop not null;
alter table outbox
  alter type type varchar(255), alter source type varchar(255), alter key type varchar(255),
  alter content_type type varchar(255), alter correlation_id type varchar(255),
  alter causation_id type varchar(255), alter traceparent type varchar(55),
  alter tracestate type varchar(512), alter headers type varchar(400000);
alter table scheduled alter headers type varchar(400000);
alter table parked alter headers type text;

-- The lane of a row. The same rule as in the publishers' INSERT; inlined by the planner.
create function lane_of(lane smallint, key text, id bigint) returns smallint language sql immutable
  return coalesce(lane, (coalesce(hashtextextended(key, 0), id) & 63)::smallint);

-- One for each relay, not for each lane: of those under way when it ends, one was the reason at most.
alter table relay add column suspect_id bigint;
alter table lane drop column suspect_id;

-- What relays had noted when they ended. An event is to blame when two did over it: killing relays by
-- chance does not hit the same one twice.
create table suspect (
  id       bigint      primary key,  -- the outbox id
  deaths   int         not null,
  noted_at timestamptz not null default clock_timestamp()
);

-- What lane admission asks for; the rest of parked may be millions.
create index parked_held on parked (key, id) where reason = 'held';
create index parked_suspect on parked (id) where reason = 'suspect';

-- Is the event behind its lane's cursor? Inlined by the planner.
create function is_published(xid xid8, id bigint, l lane) returns boolean language sql stable
  return pg_visible_in_snapshot(xid, (l).done)
         or ((l).target is not null and pg_visible_in_snapshot(xid, (l).target) and id <= (l).last_id);

-- A text that changes when the server restarted, failed over or was promoted.
create function server_state() returns text language sql stable
  return pg_postmaster_start_time()::text || case when pg_is_in_recovery() then ' standby'
           else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end;

-- As before (0001), with lane_of.
drop function fetch_live(xid8[], xid8, bigint, bigint, bigint);
create function fetch_live(xips xid8[], from_xid xid8, row_limit bigint, byte_limit bigint,
                           lanes bigint)
  returns table (snapshot text, last_id bigint, server text, id bigint, lane smallint,
                 event_id uuid, type text, source text, key text, "time" text, content_type text,
                 correlation_id text, causation_id text, traceparent text, tracestate text,
                 expires_at text, headers text, payload bytea)
  language plpgsql
  set search_path from current
  set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
  set max_parallel_workers_per_gather = 0 set plan_cache_mode = force_generic_plan
  set datestyle = 'ISO' set work_mem = '64MB' as $$
#variable_conflict use_column
begin
  return query
  select pg_current_snapshot()::text, (select s.last_value from outbox_id_seq s), server_state(),
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

-- As before (0001), and: the first row is the server's state and nothing else.
drop function fetch_page(xid8[], xid8, pg_snapshot, bigint, bigint, bigint, bigint);
create function fetch_page(xips xid8[], from_xid xid8, target pg_snapshot, after_id bigint,
                           row_limit bigint, byte_limit bigint, lanes bigint)
  returns table (server text, id bigint, lane smallint, event_id uuid, type text, source text,
                 key text, "time" text, content_type text, correlation_id text, causation_id text,
                 traceparent text, tracestate text, expires_at text, headers text, payload bytea)
  language plpgsql
  set search_path from current
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

-- As before (0001).
create or replace function truncate_published(child int, keep interval default '0') returns text
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
    'select exists (select from %I e join lane l on l.lane = lane_of(e.lane, e.key, e.id)
       where e.xid >= (select min(pg_snapshot_xmin(done)) from lane)
         and not is_published(e.xid, e.id, l))', name) into found;
  if found then return 'unpublished'; end if;
  execute format('truncate only %I', name);
  return 'truncated';
end $$;

-- As before (0003), and: no CC and BCC, by which RabbitMQ routes and which it wants to be lists.
create or replace function check_event_headers(headers jsonb) returns void language plpgsql as $$
declare
  header record;
  total bigint := 0;
begin
  if headers is null then return; end if;
  if jsonb_typeof(headers) <> 'object' then
    perform refuse_event('headers', 'is no JSON object of names and texts');
  end if;
  for header in select h.key as name, h.value from jsonb_each(headers) h loop
    if header.name = '' then perform refuse_event('headers', 'has a header without a name'); end if;
    perform check_event_text('headers (a name)', header.name, 1, 255);
    if header.name ~ '^(x-|cloudEvents|pillion-)' or header.name in ('traceparent', 'tracestate', 'CC', 'BCC') then
      perform refuse_event('headers', format(
        'has the header ''%s'', a name that AMQP, CloudEvents or Pillion uses', header.name));
    end if;
    if jsonb_typeof(header.value) <> 'string' then
      perform refuse_event('headers', format('has the header ''%s'', whose value is no text', header.name));
    end if;
    total := total + 6 + octet_length(convert_to(header.name, 'UTF8'))
                   + octet_length(convert_to(header.value #>> '{}', 'UTF8'));
  end loop;
  if total > 65536 then
    perform refuse_event('headers', format('is %s bytes long; the limit is 65536 bytes', total));
  end if;
end $$;
