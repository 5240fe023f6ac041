import{K as e}from"./shell-DvUK328H.js";var t=`ctllm-conversations`,n=/^<!-- (\\*)(user|assistant|tool)\b([^>\n]*) -->$/;async function r(e,n,r){let i=[`{"format":"${t}","version":1,"exported_at":"${new Date(r).toISOString()}","conversations":[`];for(let t of e){let e=await n(t);e&&i.push(i.length>1?`,
`:`
`,JSON.stringify(e))}return i.push(`
]}
`),new Blob(i,{type:`application/json`})}async function i(e,t){let n=[];for(let r of e){let e=await t(r);e&&n.push(n.length>0?`
`:``,a(e))}return new Blob(n,{type:`text/markdown`})}function a(t){return[`# ${t.title.value.replace(/\s+/g,` `)}`,...e(t).map(o)].join(`

`)+`
`}function o(e){let{role:t,model:n,content:r,attachments:i,createdAt:a}=e,o=[t,new Date(a).toISOString(),.../^[\w.:/@-]+$/.test(n)?[n]:[]],c=i.map(({name:e})=>`*${e.replace(/[*\n]/g,` `)}*`),l={user:`You`,assistant:n||`Assistant`,tool:e.toolName||`Tool`}[t].replace(/\n/g,` `);return[`<!-- ${o.join(` `)} -->\n## ${l}`,...c,s(r)].filter(Boolean).join(`

`)}function s(e){return e.split(`
`).map(e=>e.replace(/^<!-- (?=\\*(user|assistant|tool)\b)/,`<!-- \\`)).join(`
`)}function c(e,t){return`${[...e.normalize(`NFC`).replace(/[\p{C}<>:"/\\|?*.]+/gu,` `).replace(/\s+/g,` `).trim()].slice(0,60).join(``).trim()||`conversations`}.${t}`}function l(e,t){let n=URL.createObjectURL(e),r=document.createElement(`a`);r.href=n,r.download=t,r.click(),setTimeout(()=>URL.revokeObjectURL(n),6e4)}export{c as a,i,n,l as o,r,a as s,t};