-- The outbox: an append-only log, read by a snapshot-difference cursor; and events that are due later.
--
-- No row of the log is ever updated or deleted one by one. A row carries the 64-bit id of the
-- transaction that wrote it; the cursor is a pg_snapshot, and what comes next is exactly what is visible
-- now and was not visible then. Space comes back by TRUNCATE of one child of a ring at a time.

-- What an event is, in every table that holds events; they are made like this one, which goes again
-- when they are there (0002).
--
-- A type's own length bounds memory, and costs an INSERT nothing. The wire's limits are the publishers'
-- and publish()'s to keep, and the relay's to check again: it parks what breaks them.
--
-- What no type's length can say is said by domains. A domain's check is kept parsed by each session; a
-- CHECK of the table is parsed from its text for every INSERT, and cost a fifth more of the server's time
-- for a transaction that writes one event.
create domain event_payload as bytea check (octet_length(value) <= 16777216);
create domain lane_number as smallint check (value between 0 and 63);

create table event_columns (
  -- Made by the producer (UUID version 7). Not indexed: a unique index on it would be the one that
  -- hurts, and the inbox is what removes duplicates.
  event_id       uuid         not null,
  type           varchar(255) not null,
  source         varchar(255) not null,
  key            varchar(255),
  time           timestamptz  not null,
  content_type   varchar(255) not null,
  correlation_id varchar(255),
  causation_id   varchar(255),
  traceparent    varchar(55),
  tracestate     varchar(512),
  expires_at     timestamptz,  -- not worth sending from then on
  headers        varchar(400000),  -- a JSON object of texts
  payload        event_payload not null
);

-- Order inside a batch. "cache 1" is a matter of correctness: ids must grow in the order in which
-- they are handed out, across sessions.
create sequence outbox_id_seq as bigint cache 1;

create table outbox (
  -- First column, so that it is evaluated before nextval(): a transaction has its xid before it has
  -- an id. The reader's lower bound for ids rests on that order.
  xid        xid8        not null default pg_current_xact_id(),
  id         bigint      not null default nextval('outbox_id_seq'),
  -- Stored, so that a row keeps its lane whatever a later hash function says. Given by writers, since a
  -- generated column is worked out anew for every INSERT; for those that do not give it see lane_of().
  lane       lane_number,
  created_at timestamptz not null default clock_timestamp(),
  like event_columns
) partition by list (((id >> 22) & 7));

-- Eight children of 4,194,304 ids each. Chosen by the sequence alone, so a writer with an old
-- snapshot still writes where the reader looks, and no partition is ever made or missed at run time.
-- Autovacuum would only find aborted rows, which TRUNCATE removes too.
do $$
begin
  for i in 0..7 loop
    execute format('create table outbox_%s partition of outbox for values in (%s)
                      with (autovacuum_enabled = off, toast_tuple_target = 8160)', i, i);
    -- For `pillion rebase`, should somebody have a publication for all tables; to an INSERT it is nothing.
    execute format('alter table outbox_%s replica identity full', i);
    begin
      execute format('alter table outbox_%s alter payload set compression lz4', i);
    exception when feature_not_supported then  -- a server built without lz4
      execute format('alter table outbox_%s alter payload set storage external', i);
    end;
  end loop;
end $$;

create index outbox_xid on outbox (xid, id);  -- the live tail, and transactions that commit late
create index outbox_id on outbox (id);        -- paging through a frozen backlog

-- The lane of a row, 0 to 63 whatever is in it. The same rule as in the publishers' INSERT; inlined by
-- the planner.
create function lane_of(lane smallint, key text, id bigint) returns smallint language sql immutable
  return (coalesce(lane, coalesce(hashtextextended(key, 0), id)) & 63)::smallint;

-- Goes on towards the next child when the oldest event of the current one is older than `age`, so that
-- what is older can be emptied also where few events are written. Takes ids one by one, which is the one
-- way that can never set the sequence back, whoever else writes or does the same at this moment; so many
-- at a time take a tenth of a second. Returns whether the next child was reached.
create function rotate_ring(age interval, most int default 262144) returns boolean language plpgsql
  set search_path from current set row_security = off
  set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  at bigint := coalesce(pg_sequence_last_value('outbox_id_seq'), 1);
  goal bigint := ((at >> 22) + 1) << 22;
  oldest timestamptz;
begin
  execute format('select created_at from outbox_%s order by id limit 1', (at >> 22) & 7) into oldest;
  if oldest is null or oldest > clock_timestamp() - age then return false; end if;
  for i in 1..most loop
    at := nextval('outbox_id_seq');
    exit when at >= goal;
  end loop;
  return at >= goal;
end $$;

-- Events that enter the outbox when they are due. A relay moves them there in a transaction of its
-- own, so that they get a transaction id and an id like any other: the log has no other way in.
create table scheduled (
  id         bigint      generated always as identity primary key,
  deliver_at timestamptz not null check (isfinite(deliver_at)),
  like event_columns
);
create index scheduled_due on scheduled (deliver_at, id);

-- Moves the events that are due, the earliest first, until so many rows or bytes are moved. To be
-- called in a READ COMMITTED transaction. Says how many, and in how many milliseconds the next one is
-- due: null when there is none, or when somebody else is at it. One caller at a time, who has locked
-- the row of `due_turn`: two that move events of one key side by side could turn them round.
create table due_turn (one boolean primary key default true check (one));
insert into due_turn default values;

create function move_due(row_limit bigint, byte_limit bigint, out moved bigint, out next_ms bigint)
  language plpgsql set search_path from current set row_security = off
  set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  -- Read once: compared with a function that changes, the index could not end the search.
  now_is timestamptz := clock_timestamp();
  first timestamptz := (select s.deliver_at from scheduled s order by s.deliver_at, s.id limit 1);
begin
  moved := 0;
  if first <= now_is then
    perform from due_turn for update skip locked;
    if not found then
      if not exists (select from due_turn) then raise exception 'the row of due_turn is missing'; end if;
      return;
    end if;
    -- With a snapshot that is newer than the lock.
    with due as (
      delete from scheduled s where s.id = any(array(
        select c.id from (
          select b.id, b.deliver_at, sum(octet_length(b.payload))
              over (order by b.deliver_at, b.id rows between unbounded preceding and 1 preceding)
              as bytes_before
            from (select d.* from scheduled d where d.deliver_at <= now_is
                   order by d.deliver_at, d.id limit row_limit) b) c
         where coalesce(c.bytes_before, 0) < byte_limit))
      returning s.*)
    insert into outbox (event_id, type, source, key, time, content_type, correlation_id,
                        causation_id, traceparent, tracestate, expires_at, headers, payload)
    select event_id, type, source, key, time, content_type, correlation_id, causation_id,
           traceparent, tracestate, expires_at, headers, payload
      from due order by deliver_at, id;
    get diagnostics moved = row_count;
    first := (select s.deliver_at from scheduled s order by s.deliver_at, s.id limit 1);
  end if;
  if first is not null then
    next_ms := greatest(0, ceil(extract(epoch from first - clock_timestamp()) * 1000));
  end if;
end $$;

-- Waking idle relays by NOTIFY, for those who ask for it with enable_notify().
--
-- A NOTIFY in every transaction would serialise all commits of the cluster. So writers notify only
-- while a relay sleeps, which a sequence says: it is read without a lock, and set outside of any
-- transaction.

create sequence idle_flag as int minvalue 0 maxvalue 1 start 0 cache 1;

create function notify_idle_relays() returns trigger language plpgsql
  set search_path from current as $$
begin
  if (select last_value from idle_flag) = 1 then
    perform pg_notify('pillion.' || 'outbox'::regclass::oid, '');
  end if;
  return null;
end $$;

-- PostgreSQL refuses to prepare a transaction that has notified, which an event's would have whenever a
-- relay happens to sleep. Whoever knows that none that publishes is ever prepared says so.
create function enable_notify(without_two_phase boolean default false) returns void
  language plpgsql set search_path from current as $$
begin
  if not without_two_phase and current_setting('max_prepared_transactions')::int > 0 then
    raise exception 'a transaction that notifies cannot be prepared, and max_prepared_transactions is %',
      current_setting('max_prepared_transactions')
      using hint = 'If no transaction that publishes is ever prepared: select enable_notify(true)',
            errcode = 'object_not_in_prerequisite_state';
  end if;
  create or replace trigger notify_idle_relays after insert on outbox
    for each statement execute function notify_idle_relays();
end $$;

create function disable_notify() returns void language plpgsql set search_path from current as $$
begin
  drop trigger if exists notify_idle_relays on outbox;
end $$;

-- Raised by a relay that finds nothing for a while; it sleeps after one more look. Before that look
-- it commits another transaction, with an id taken when the flag was up: only then does the look's
-- snapshot list every writer that may have read the flag before. (setval() itself takes its
-- transaction's id before it sets anything, so that one is too early.) Lowered by the relay that was
-- woken, which wakes the others too, since from now on nobody else does.
create function raise_idle_flag() returns void language plpgsql set search_path from current as $$
begin
  perform setval('idle_flag', 1);
end $$;

create function lower_idle_flag() returns void language plpgsql set search_path from current as $$
begin
  if (select last_value from idle_flag) = 0 then return; end if;
  perform setval('idle_flag', 0);
  perform pg_notify('pillion.' || 'outbox'::regclass::oid, 'awake');
end $$;
