/** A conversation, and the form for the next message. */
import type {VNode} from 'preact';
import {useEffect, useRef} from 'preact/hooks';
import {route} from '../app/router';
import {language, t} from '../i18n/i18n';
import {watchModels} from '../models/model-store';
import {IconButton} from '../ui/button';
import {prepareFormats} from '../ui/format';
import {Lazy} from '../ui/lazy';
import {whenIdle} from '../ui/tasks';
import {Announcer} from './announcer';
import './chat.css';
import {answers, chosen, currentAnswer, instructions, modelLists, NO_INSTRUCTIONS, shown} from './chat-store';
import {Composer} from './composer';
import {MessageList} from './message-list';
import {ModelChoice} from './model-choice';
import {ScrollFollower} from './scroll-follower';
import {showsChatSettings} from './settings-state';

const loadSettings = () => import('./chat-settings');

export function ChatView(): VNode {
  const follower = useRef(new ScrollFollower()).current;
  useEffect(watchModels, []);
  useEffect(() => whenIdle(prepareFormats), [language.value]);
  const {id} = route.value;
  const message = currentAnswer.value;
  return (
    <section id="chat" aria-label={t('chat.title')}>
      <Header />
      <Content key={id} follower={follower} />
      <Composer conversation={id} onSend={() => follower.jump()} />
      <Announcer conversation={id} answer={message ? answers.of(message.id) : undefined} />
      {showsChatSettings.value && <Lazy load={loadSettings} />}
    </section>
  );
}

function Header(): VNode {
  const isChanged = JSON.stringify(instructions.value) !== JSON.stringify(NO_INSTRUCTIONS);
  return (
    <header class="chat-header">
      <ModelChoice />
      <IconButton
        id="chat-settings-button"
        icon="settings"
        class={isChanged ? 'is-changed' : ''}
        label={isChanged ? t('chat.hasSettings') : t('chat.settings')}
        onClick={() => { showsChatSettings.value = true; }}
      />
      <Badge />
    </header>
  );
}

function Badge(): VNode | null {
  const choice = chosen.value;
  const option = modelLists.value.flatMap(({options}) => options).find(({desktop, model}) => desktop === choice?.desktop && model === choice.model);
  if (option?.isDemo) return <p id="demo" class="badge">{t('chat.demo')}</p>;
  return option?.isRemote ? <p id="remote-model" class="badge">{t('chat.remote')}</p> : null;
}

function Content({follower}: {readonly follower: ScrollFollower}): VNode {
  const conversation = shown.value;
  if (conversation) return <MessageList conversation={conversation} follower={follower} />;
  if (conversation === undefined) return <div class="log-frame" aria-busy="true" aria-label={t('chat.loading')} />;
  const isMissing = route.value.id !== '';
  return (
    <div class="log-frame">
      <div id="log" class="empty">
        {isMissing ? <p class="soft">{t('chat.deleted')}</p> : <><h2>{t('chat.empty')}</h2><p class="soft">{t('chat.private')}</p></>}
      </div>
    </div>
  );
}
